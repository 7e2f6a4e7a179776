"""Which weights serve since a rollout, and that a commit is one write."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from serve_app.config.settings import ModelSettings
from serve_app.controller.claims import Weights
from serve_app.controller.store import Store
from serve_app.training.deployed import read_deployed


def weights(folder: Path, step: int) -> Weights:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True, exist_ok=True)
    return Weights(path=path, version=f"v{step}", step=step)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.sqlite")


def model(name: str, *, source: str = "default:mini") -> ModelSettings:
    return ModelSettings(
        id=name,
        source=source,
        dtype="float32",
        max_model_len=64,
        max_num_seqs=4,
        num_replicas=1,
        priority=10,
        kv_cache_bytes=None,
        tensor_parallel=1,
        path="models[0]",
    )


MINI = model("mini")


class TestServed:
    def test_nothing_before_a_rollout(self, store: Store) -> None:
        assert store.served.path_of(MINI) is None

    def test_what_was_rolled_out_goes_before_the_source(self, store: Store, tmp_path: Path) -> None:
        new = weights(tmp_path, 20)
        store.served.save(MINI, new)
        assert store.served.path_of(MINI) == new.path

    def test_another_source_in_the_file_is_meant(self, store: Store, tmp_path: Path) -> None:
        store.served.save(MINI, weights(tmp_path, 20))
        assert store.served.path_of(model("mini", source="default:small")) is None

    def test_what_was_chosen_of_a_folder_stays_until_a_rollout_or_another_source(
        self, store: Store, tmp_path: Path
    ) -> None:
        mine = model("mine", source=str(tmp_path))
        store.served.keep(mine, weights(tmp_path, 20))
        store.served.keep(mine, weights(tmp_path, 30))
        assert store.served.path_of(mine) == tmp_path / "checkpoint-20"
        assert read_deployed(tmp_path) == tmp_path / "checkpoint-20"
        store.served.save(mine, weights(tmp_path, 30))
        assert store.served.path_of(mine) == tmp_path / "checkpoint-30"

    def test_a_checkpoint_that_is_gone_serves_nobody(self, store: Store, tmp_path: Path) -> None:
        new = weights(tmp_path, 20)
        store.served.save(MINI, new)
        new.path.rmdir()
        assert store.served.path_of(MINI) is None

    def test_the_links_follow_the_store(self, store: Store, tmp_path: Path) -> None:
        new = weights(tmp_path, 20)
        store.served.save(MINI, new)
        store.served.show_links()
        assert read_deployed(tmp_path) == new.path


class TestTogether:
    def test_a_break_leaves_nothing_of_it(self, store: Store, tmp_path: Path) -> None:
        store.served.save(MINI, weights(tmp_path, 10))

        def breaks() -> None:
            with store.served.together():
                store.served.save(MINI, weights(tmp_path, 20))
                store.save_plan(7, b"plan")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            breaks()
        assert store.served.path_of(MINI) == tmp_path / "checkpoint-10"
        assert store.last_plan() is None

    def test_a_reader_sees_both_or_none(self, store: Store, tmp_path: Path) -> None:
        reader = sqlite3.connect(tmp_path / "state.sqlite")
        with store.served.together():
            store.served.save(MINI, weights(tmp_path, 20))
            assert reader.execute("SELECT count(*) FROM served").fetchone() == (0,)
            store.save_plan(7, b"plan")
        assert reader.execute("SELECT count(*) FROM served").fetchone() == (1,)
        assert reader.execute("SELECT count(*) FROM plans").fetchone() == (1,)
