"""Leases under crashes, pauses, restarts and clock jumps: no share is held twice, epochs rise (threats 6, 9 to 11)."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from placement.lease import Lease
from placement.lease_index import Change, Happening
from serve_app.leases.book import LeaseBook
from tests.serve_app.leases.history import Crash, Play

CLIENTS = ("anna", "ben", "cleo", "dan")
CRASHES = st.sampled_from([Crash.NO] * 8 + [Crash.UNWRITTEN, Crash.UNTOLD])


class LeaseHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="leases"))
        self.play = Play(self.folder / "leases.db")

    def teardown(self) -> None:
        self.play.close()
        shutil.rmtree(self.folder)

    @rule(
        client=st.sampled_from(CLIENTS),
        mb=st.integers(1, 1000),
        priority=st.integers(0, 3),
        ttl_s=st.sampled_from([0.5, 5.0, 30.0]),
        crash=CRASHES,
    )
    def acquire(self, client: str, mb: int, priority: int, ttl_s: float, crash: Crash) -> None:
        self.play.acquire(client, mb, priority, ttl_s, crash)

    @rule(which=st.integers(0, 20), acknowledges=st.booleans(), crash=CRASHES)
    def renew(self, which: int, acknowledges: bool, crash: Crash) -> None:
        self.play.renew(which, acknowledges, crash)

    @rule(which=st.integers(0, 20), crash=CRASHES)
    def release(self, which: int, crash: Crash) -> None:
        self.play.release(which, crash)

    @rule(which=st.integers(0, 20), mb=st.integers(0, 1200))
    def measure(self, which: int, mb: int) -> None:
        self.play.measure(which, mb)

    @rule(seconds=st.sampled_from([0.125, 1.0, 4.875, 5.0, 30.0]))
    def pause(self, seconds: float) -> None:
        self.play.pause(seconds)

    @rule()
    def sweep(self) -> None:
        self.play.sweep()

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def jump_wall(self, seconds: float) -> None:
        self.play.jump_wall(seconds)

    @rule(down_s=st.sampled_from([0.0, 3.0, 20.0]))
    def restart(self, down_s: float) -> None:
        self.play.restart(down_s)

    @rule(down_s=st.sampled_from([1.0, 20.0]))
    def reboot(self, down_s: float) -> None:
        self.play.reboot(down_s)

    @invariant()
    def the_laws_hold(self) -> None:
        assert self.play.violations == []


LeaseHistory.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLeaseHistory = LeaseHistory.TestCase


def played(play: Play, *, num_operations: int, seed: int) -> Play:
    """Operations drawn at random until there are enough of them or a law is broken."""
    chance = random.Random(seed)

    def acquire() -> None:
        client, ttl_s = chance.choice(CLIENTS), chance.choice([0.5, 5.0, 30.0])
        play.acquire(client, chance.randint(1, 1000), chance.randint(0, 3), ttl_s, crash())

    acts: list[tuple[float, Callable[[], None]]] = [
        (40, acquire),
        (25, lambda: play.renew(chance.randrange(50), chance.random() < 0.5, crash())),
        (12, lambda: play.release(chance.randrange(50), crash())),
        (8, lambda: play.measure(chance.randrange(50), chance.choice([0, 0, 0, 0, 500, 1200]))),
        (15, lambda: play.pause(chance.choice([0.125, 0.5, 1, 3]))),
        (1, play.sweep),
        (1, lambda: play.jump_wall(chance.choice([-3600, 3600]))),
        (0.5, lambda: play.restart(chance.choice([0, 3, 20]))),
        (0.2, lambda: play.reboot(chance.choice([1, 20]))),
    ]  # fmt: skip

    def crash() -> Crash:
        return chance.choices(list(Crash), [96, 2, 2])[0]

    weights = [weight for weight, _ in acts]
    for _ in range(num_operations):
        chance.choices([act for _, act in acts], weights)[0]()
        if play.violations:
            break
    return play


class ForgetsGrants(LeaseBook):
    """Planted: tells of grants that it did not write down."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(change for change in changes if change.kind is not Happening.GRANTED)


class CountsEpochsFromRows(LeaseBook):
    """Planted: takes the newest lease it still has a row of for the newest there was."""

    def _next_epoch(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(epoch), 0) + 1 FROM leases").fetchone()[0])


class ForgetsRenewals(LeaseBook):
    """Planted: a renewal is told and not written down, so that a restart ends the lease too early."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(change for change in changes if change.kind is not Happening.RENEWED)


class FreesAtRestart(LeaseBook):
    """Planted: after a restart a lease lives only half as long as its holder believes."""

    def _rows(self):  # type: ignore[no-untyped-def]  # as in LeaseBook
        for lease in super()._rows():
            yield _halved(lease)


def _halved(lease: Lease) -> Lease:
    return replace(lease, expires_s=lease.expires_s - lease.ttl_s / 2)


class TestHistoryCheck:
    @pytest.mark.parametrize("broken", [ForgetsGrants, CountsEpochsFromRows, ForgetsRenewals, FreesAtRestart])
    def test_it_finds_a_planted_bug(self, tmp_path: Path, broken: type[LeaseBook]) -> None:
        play = played(Play(tmp_path / "leases.db", book_class=broken), num_operations=5000, seed=1)
        play.close()
        assert play.violations != []

    def test_a_thousand_random_operations_break_no_law(self, tmp_path: Path) -> None:
        play = played(Play(tmp_path / "leases.db"), num_operations=1000, seed=2)
        play.close()
        assert play.violations == []
        assert play.num_grants > 50

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    def test_a_hundred_thousand_random_operations_break_no_law(self, tmp_path: Path) -> None:
        play = played(Play(tmp_path / "leases.db"), num_operations=100_000, seed=3)
        play.close()
        print(f"100,000 operations, {play.num_grants} grants, {len(play.violations)} violations")  # noqa: T201  # the figure of this test
        assert play.violations == []


def test_sqlite_keeps_an_infinite_date() -> None:
    """A lease whose holder's bytes linger ends at infinity, and must come back so."""
    with sqlite3.connect(":memory:") as db:
        assert db.execute("SELECT ?", (float("inf"),)).fetchone() == (float("inf"),)
