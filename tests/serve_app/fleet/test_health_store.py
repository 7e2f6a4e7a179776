"""The fleet's health over a restart, from a poll to the store and back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from placement import health
from placement.errors import DecodeError
from placement.health_state import Cordon, HealthPolicy
from placement.inventory import DeviceHealth
from serve_app.fleet.health_store import HealthStore
from tests.placement.health_story import DEVICE, Story, names, seen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


def store(path: Path) -> HealthStore:
    return HealthStore(sqlite3.connect(path, isolation_level=None))


def restarted(path: Path) -> Story:
    story = Story()
    story.fleet = health.restored(store(path).standings(), now_s=0.0)
    return story


class TestRestart:
    def test_quarantine_and_cordon_are_back(self, path: Path) -> None:
        story = Story()
        outcome = story.poll(0.0, seen(ecc_uncorrected=1))
        store(path).save(outcome.fleet, outcome.changed)
        outcome = health.cordon(story.fleet, DEVICE, Cordon(by="anna"), now_s=0.0, policy=HealthPolicy())
        store(path).save(outcome.fleet, outcome.changed)
        again = restarted(path)
        assert again.state() is DeviceHealth.QUARANTINED
        assert again.standing().cordons == (Cordon(by="anna"),)

    def test_a_device_comes_back_through_its_probe_afterwards(self, path: Path) -> None:
        story = Story()
        outcome = story.poll(0.0, seen(ecc_uncorrected=1))
        store(path).save(outcome.fleet, outcome.changed)
        again = restarted(path)
        now_s = again.on_probation()
        assert now_s >= 600.0
        again.answer(now_s, has_passed=True)
        assert again.state() is DeviceHealth.HEALTHY

    def test_a_row_that_is_not_ours_is_an_error_that_names_the_device(self, path: Path) -> None:
        of = store(path)
        of._db.execute("INSERT INTO standings VALUES ('n/gpu-0', '{\"device\": 3}')")
        with pytest.raises(DecodeError, match=r"standings\[n/gpu-0\].device"):
            of.standings()

    def test_a_forgotten_device_does_not_come_back(self, path: Path) -> None:
        story = Story(*names(2))
        outcome = story.poll(0.0, *(seen(device) for device in names(2)))
        of = store(path)
        of.save(outcome.fleet, outcome.changed)
        of.forget(names(2)[0])
        assert [standing.device for standing in of.standings()] == names(2)[1:]
