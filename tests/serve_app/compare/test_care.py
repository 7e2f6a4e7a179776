"""Which checkpoints go to the archive, that none is lost on the way, and that a change of one is found."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli import main
from serve_app.compare.archive import archive, archived, listed, pin, pins, restore, unpin, verify_baseline
from serve_app.compare.care import ARCHIVE_AFTER_S, Checkpoint, Key, Why, care
from serve_app.errors import CheckpointRefused, HeadroomError
from tests.serve_app.compare.builders import Home
from tests.serve_app.training.tiny import copy_of_tiny

NOW_S = 1e9
OLD_S = NOW_S - ARCHIVE_AFTER_S - 1


def checkpoint(step: int, *, parent: int | None = None, made_at_s: float = OLD_S) -> Checkpoint:
    return Checkpoint(
        model="m",
        name=f"checkpoint-{step}",
        step=step,
        weights_version=f"v{step}",
        parent=None if parent is None else f"v{parent}",
        made_at_s=made_at_s,
    )


def keys(*steps: int) -> frozenset[Key]:
    return frozenset(("m", f"checkpoint-{step}") for step in steps)


class TestCare:
    def test_only_what_is_old_and_nothing_else_is_archived(self) -> None:
        found = care(
            [
                checkpoint(1),
                checkpoint(2),
                checkpoint(3, parent=2),
                checkpoint(4, parent=3),
                checkpoint(5),
                checkpoint(6),
                checkpoint(7),
                checkpoint(8, made_at_s=NOW_S),
                checkpoint(9, made_at_s=NOW_S - 5),
            ],
            pinned=keys(5),
            deployed=keys(4),
            previous=keys(6),
            now_s=NOW_S,
        )
        assert {int(name.removeprefix("checkpoint-")): why for (_, name), why in found.items()} == {
            1: Why.OLD,
            2: Why.PARENT,
            3: Why.PARENT,
            4: Why.DEPLOYED,
            5: Why.PINNED,
            6: Why.PREVIOUS,
            7: Why.OLD,
            8: Why.NEWEST,
            9: Why.YOUNG,
        }

    many = st.lists(
        st.builds(
            checkpoint,
            st.integers(1, 8),
            parent=st.none() | st.integers(1, 8),
            made_at_s=st.sampled_from([OLD_S, NOW_S]),
        ),
        unique_by=lambda one: one.step,
    )
    some = st.sets(st.integers(1, 8)).map(lambda steps: keys(*steps))

    @given(many, some, some, some)
    def test_nothing_that_is_needed_is_ever_archived(
        self, checkpoints: list[Checkpoint], pinned: frozenset[Key], deployed: frozenset[Key], previous: frozenset[Key]
    ) -> None:
        found = care(checkpoints, pinned=pinned, deployed=deployed, previous=previous, now_s=NOW_S)
        old = {key for key, why in found.items() if why is Why.OLD}
        versions = {one.weights_version for one in checkpoints if (one.model, one.name) in old}
        assert not old & (pinned | deployed | previous)
        assert not versions & {one.parent for one in checkpoints if (one.model, one.name) in deployed}
        assert all(one.made_at_s == OLD_S for one in checkpoints if one.weights_version in versions)
        assert not checkpoints or len(old) < len(checkpoints)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    for step in (1, 2):
        home.write(step)
    return home


class TestArchive:
    def test_a_checkpoint_goes_and_comes_back_whole(self, home: Home) -> None:
        before = {path.name: path.read_bytes() for path in (home.folder / "checkpoint-1").iterdir()}
        moved = archive(home.path, "tiny", "checkpoint-1")
        assert archived(home.path) == (moved,)
        assert [one.checkpoint.name for one in listed(home.path, now_s=0.0)] == ["checkpoint-2"]
        back = restore(home.path, "tiny", "checkpoint-1")
        assert {path.name: path.read_bytes() for path in back.iterdir()} == before

    def test_what_serves_or_is_pinned_stays(self, home: Home) -> None:
        home.deploy(home.folder / "checkpoint-1")
        pin(home.path, "tiny", "checkpoint-2")
        for name, words in (("checkpoint-1", "serves now"), ("checkpoint-2", "pinned by operator")):
            with pytest.raises(HeadroomError, match=words):
                archive(home.path, "tiny", name)

    def test_nothing_is_written_over(self, home: Home) -> None:
        archive(home.path, "tiny", "checkpoint-1")
        home.write(1)
        with pytest.raises(HeadroomError, match="there already"):
            archive(home.path, "tiny", "checkpoint-1")
        with pytest.raises(HeadroomError, match="there already"):
            restore(home.path, "tiny", "checkpoint-1")

    def test_what_was_damaged_in_the_archive_stays_there(self, home: Home) -> None:
        moved = archive(home.path, "tiny", "checkpoint-1")
        (moved / "config.json").unlink()
        with pytest.raises(CheckpointRefused):
            restore(home.path, "tiny", "checkpoint-1")
        assert moved.is_dir()

    @pytest.mark.parametrize(
        ("model", "name"),
        [("..", "checkpoint-1"), ("tiny/..", "checkpoint-1"), ("tiny", "../tiny"), ("tiny", "deployed"), ("no", "x")],
    )
    def test_no_name_leads_out_of_the_home(self, home: Home, model: str, name: str) -> None:
        for act in (archive, restore, pin):
            with pytest.raises(HeadroomError):
                act(home.path, model, name)


class TestPins:
    def test_each_holder_has_a_pin_of_its_own(self, home: Home) -> None:
        pin(home.path, "tiny", "checkpoint-1", by="rollout")
        pin(home.path, "tiny", "checkpoint-1")
        assert unpin(home.path, "tiny", "checkpoint-1")
        assert not unpin(home.path, "tiny", "checkpoint-1")
        assert pins(home.folder) == {"checkpoint-1": ("rollout",)}
        assert unpin(home.path, "tiny", "checkpoint-1", by="rollout")
        assert pins(home.folder) == {}

    def test_a_file_of_pins_that_cannot_be_read_is_no_empty_one(self, home: Home) -> None:
        (home.folder / "pins.json").write_text("{")
        with pytest.raises(HeadroomError, match="cannot be read"):
            listed(home.path, now_s=0.0)


class TestBaseline:
    def test_a_changed_byte_is_found(self, home: Home) -> None:
        path = copy_of_tiny(home.folder)
        home.deploy(path)
        assert [one.problem for one in verify_baseline(home.path, now_s=0.0)] == [""]
        (path / "config.json").write_text((path / "config.json").read_text() + " ")
        assert "config.json" in verify_baseline(home.path, now_s=0.0)[0].problem

    def test_a_change_together_with_its_manifest_is_found_and_goes_on_being_found(self, home: Home) -> None:
        pin(home.path, "tiny", "checkpoint-1")  # without a manifest, digests are those of whatever is there
        verify_baseline(home.path, now_s=0.0)
        (home.folder / "checkpoint-1" / "trainer_state.json").write_text("{}")
        for _ in range(2):
            assert "when the baseline was taken" in verify_baseline(home.path, now_s=0.0)[0].problem


class TestCommands:
    def run(self, home: Home, *words: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, ["checkpoints", *words, "--home", str(home.path)])
        assert result.exit_code == code, result.output
        return result.output

    def test_they_work_on_a_home_without_a_cluster(self, home: Home) -> None:
        self.run(home, "pin", "tiny", "checkpoint-1")
        found = json.loads(self.run(home, "list", "--json"))
        assert {one["name"]: one["why"] for one in found["checkpoints"]} == {
            "checkpoint-1": "pinned",
            "checkpoint-2": "newest",
        }
        self.run(home, "archive", "tiny", "checkpoint-1", code=1)
        self.run(home, "unpin", "tiny", "checkpoint-1")
        self.run(home, "archive", "tiny", "checkpoint-1")
        assert "archived" in self.run(home, "list")
        self.run(home, "restore", "tiny", "checkpoint-1")
        assert "Nothing is old enough" in self.run(home, "archive")

    def test_verify_ends_with_5_when_something_was_changed(self, home: Home) -> None:
        self.run(home, "pin", "tiny", "checkpoint-1")
        self.run(home, "verify")
        (home.folder / "checkpoint-1" / "config.json").unlink()
        assert "config.json" in self.run(home, "verify", code=5)

    def test_archive_takes_everything_that_is_old(self, home: Home) -> None:
        import os

        old_s = time.time() - ARCHIVE_AFTER_S - 60
        os.utime(home.folder / "checkpoint-1", (old_s, old_s))
        assert "checkpoint-1" in self.run(home, "archive")
        assert [one.checkpoint.step for one in listed(home.path, now_s=time.time())] == [2]
