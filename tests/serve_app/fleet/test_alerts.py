"""The history of alerts and its callbacks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from placement.health_rules import Action, RuleName, Severity
from placement.health_state import Alert
from serve_app.fleet.alerts import FLEET, MAX_PAGE, AlertEntry, AlertHistory, Callbacks


def alert(rule: RuleName = RuleName.THERMAL_CRITICAL, device: str | None = "n/gpu-0") -> Alert:
    return Alert(
        rule=rule,
        device=device,
        severity=Severity.CRITICAL,
        action=Action.THROTTLE,
        message="hot",
        since_s=1.0,
        value=87.0,
        limit=85.0,
    )


def history(path: Path, *, max_kept: int = 100) -> AlertHistory:
    return AlertHistory(sqlite3.connect(path, isolation_level=None), max_kept=max_kept)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


class TestHistory:
    def test_an_alert_is_kept_from_firing_to_clearing_over_a_restart(self, path: Path) -> None:
        history(path).fired(alert(), at_s=100.0, dry_run=False)
        history(path).acted(alert(), at_s=101.5)
        history(path).cleared(alert(), at_s=160.0)
        (entry,) = history(path).page()
        assert entry == AlertEntry(
            id=1,
            rule=RuleName.THERMAL_CRITICAL,
            device="n/gpu-0",
            severity=Severity.CRITICAL,
            action=Action.THROTTLE,
            dry_run=False,
            message="hot",
            value=87.0,
            limit=85.0,
            fired_at_s=100.0,
            acted_at_s=101.5,
            cleared_at_s=160.0,
        )
        assert entry.response_s == 1.5

    def test_firing_again_before_it_clears_is_the_same_entry(self, path: Path) -> None:
        of = history(path)
        first = of.fired(alert(), at_s=100.0, dry_run=False)
        assert of.fired(alert(), at_s=200.0, dry_run=False) == first
        of.cleared(alert(), at_s=300.0)
        assert of.fired(alert(), at_s=400.0, dry_run=False).id != first.id

    def test_only_the_first_act_counts(self, path: Path) -> None:
        of = history(path)
        of.fired(alert(), at_s=100.0, dry_run=False)
        of.acted(alert(), at_s=101.0)
        entry = of.acted(alert(), at_s=150.0)
        assert entry is not None
        assert entry.response_s == 1.0

    def test_what_is_not_active_cannot_clear(self, path: Path) -> None:
        assert history(path).cleared(alert(), at_s=1.0) is None

    def test_an_alert_of_the_fleet_is_active_once_too(self, path: Path) -> None:
        of, whole = history(path), alert(RuleName.QUARANTINED_SHARE_HIGH, device=None)
        assert of.fired(whole, at_s=1.0, dry_run=True) == of.fired(whole, at_s=2.0, dry_run=True)
        assert [(entry.device, entry.dry_run) for entry in of.page()] == [(FLEET, True)]

    def test_what_ended_unseen_is_cleared_after_a_restart_and_nothing_else(self, path: Path) -> None:
        whole = alert(RuleName.QUARANTINED_SHARE_HIGH, device=None)
        for one in (alert(), alert(RuleName.POWER_CRITICAL), whole):
            history(path).fired(one, at_s=1.0, dry_run=False)
        again = history(path)
        again.settle([alert(), whole], at_s=9.0)
        assert [entry.rule for entry in again.page(active=False)] == [RuleName.POWER_CRITICAL]
        assert [entry.id for entry in again.page(active=True)] == [3, 1]

    def test_the_oldest_go_and_active_ones_stay(self, path: Path) -> None:
        of = history(path, max_kept=3)
        of.fired(alert(RuleName.ECC_UNCORRECTABLE), at_s=0.0, dry_run=False)
        for number in range(10):
            of.fired(alert(), at_s=float(number), dry_run=False)
            of.cleared(alert(), at_s=float(number))
        assert [entry.id for entry in of.page()] == [11, 10, 9, 1]


class TestPages:
    def test_come_newest_first_and_go_on_where_the_last_one_ended(self, path: Path) -> None:
        of = history(path)
        for number in range(5):
            of.fired(alert(device=f"n/gpu-{number}"), at_s=float(number), dry_run=False)
        first = of.page(limit=2)
        assert [entry.id for entry in (*first, *of.page(limit=2, before=first[-1].id))] == [5, 4, 3, 2]

    def test_take_filters_together(self, path: Path) -> None:
        of = history(path)
        for rule in (RuleName.THERMAL_CRITICAL, RuleName.POWER_CRITICAL):
            for device in ("n/gpu-0", "n/gpu-1"):
                of.fired(alert(rule, device), at_s=1.0, dry_run=False)
        of.cleared(alert(), at_s=2.0)
        assert [entry.id for entry in of.page(device="n/gpu-0", active=True)] == [3]
        assert [entry.id for entry in of.page(rule=RuleName.THERMAL_CRITICAL, active=False)] == [1]
        assert of.page(severity=Severity.INFO) == ()

    @pytest.mark.parametrize("limit", [-1, 0, 10 * MAX_PAGE])
    def test_are_bounded_whatever_is_asked(self, limit: int) -> None:
        of = history(Path(":memory:"), max_kept=2 * MAX_PAGE)
        for number in range(MAX_PAGE + 1):
            of.fired(alert(device=f"n/gpu-{number}"), at_s=1.0, dry_run=False)
        assert 1 <= len(of.page(limit=limit)) <= MAX_PAGE


class TestCallbacks:
    def test_one_that_raises_stops_no_other_and_is_counted(self, path: Path) -> None:
        heard: list[AlertEntry] = []
        callbacks = Callbacks()
        callbacks.add(lambda entry: [][entry.id])
        callbacks.add(heard.append)
        entry = history(path).fired(alert(), at_s=1.0, dry_run=False)
        callbacks.tell(entry)
        assert (heard, callbacks.num_failed) == ([entry], 1)

    def test_one_that_left_hears_no_more(self, path: Path) -> None:
        heard: list[AlertEntry] = []
        callbacks = Callbacks()
        leave = callbacks.add(heard.append)
        leave()
        callbacks.tell(history(path).fired(alert(), at_s=1.0, dry_run=False))
        assert heard == []
