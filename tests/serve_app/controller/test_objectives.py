"""How requests become budgets: counted, written down about once a minute, and shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from placement.objectives import AVAILABILITY, Bucket, ObjectiveName
from serve_app.api.errors import Outcome
from serve_app.config.settings import ObjectivesSettings
from serve_app.controller.objectives import Objectives
from serve_app.ops.objective_counts import ObjectiveCounts
from tests.serve_app.controller.test_availability import Gateway
from tracing import names
from tracing.fleet_metrics import ObjectiveMetrics
from tracing.metrics import Recorder

NOW_S = 1_800_000_000.0


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    yield made
    made.close()


class Kept:
    """Objectives over a database, what it holds, and the gauges."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.counts = ObjectiveCounts(connection)
        self.recorder = Recorder("controller")
        self.gateway = Gateway()
        self.objectives = Objectives(
            settings=ObjectivesSettings, counts=self.counts, metrics=ObjectiveMetrics(self.recorder)
        )

    def answer(self, outcome: Outcome, count: int = 1) -> None:
        self.gateway.answers(outcome, count)
        self.objectives.saw(self.gateway.report())

    def buckets(self) -> list[Bucket]:
        return list(self.counts.buckets(ObjectiveName.AVAILABILITY, since_s=0.0))

    def gauges(self) -> dict[tuple[str, ...], float]:
        (report,) = self.recorder.drain()
        return {(name.removeprefix("headroom_objective_"), *labels): v for (name, labels), v in report.gauges.items()}


@pytest.fixture
def kept(connection: sqlite3.Connection) -> Kept:
    return Kept(connection)


class TestCounting:
    def test_writes_down_once_a_turn_what_was_seen_since_the_one_before(self, kept: Kept) -> None:
        for outcome in (Outcome.SUCCESS, Outcome.SUCCESS, Outcome.ERROR):
            kept.answer(outcome)
        assert kept.buckets() == []
        kept.objectives.turn(now_s=NOW_S)
        kept.objectives.turn(now_s=NOW_S + 60)
        assert kept.buckets() == [Bucket(start_s=NOW_S, num_good=2, num_total=3)]

    def test_writes_nothing_where_nothing_was_asked(self, kept: Kept) -> None:
        kept.answer(Outcome.REJECTED)
        kept.objectives.turn(now_s=NOW_S)
        assert kept.buckets() == []

    def test_keeps_what_could_not_be_written_for_the_next_turn(self, kept: Kept) -> None:
        kept.answer(Outcome.SUCCESS)
        kept.connection.execute("PRAGMA query_only = 1")
        with pytest.raises(sqlite3.OperationalError):
            kept.objectives.turn(now_s=NOW_S)
        kept.answer(Outcome.ERROR)
        kept.connection.execute("PRAGMA query_only = 0")
        kept.objectives.turn(now_s=NOW_S)
        assert kept.buckets() == [Bucket(start_s=NOW_S, num_good=1, num_total=2)]


class TestGauges:
    def test_show_how_fast_both_windows_burn_and_what_is_left(self, kept: Kept) -> None:
        kept.answer(Outcome.SUCCESS, 9_999)
        kept.answer(Outcome.ERROR)
        kept.objectives.turn(now_s=NOW_S)
        shown = kept.gauges()
        expected = 1 / 10_000 / (1 - AVAILABILITY.target)
        for window in names.BurnWindow:
            assert shown["burn_rate", "availability", window.value] == pytest.approx(expected)
        assert shown["budget_left_ratio", "availability"] == pytest.approx(1 - expected)

    def test_of_a_window_without_counts_are_left_out_and_its_budget_is_whole(self, kept: Kept) -> None:
        kept.answer(Outcome.ERROR)
        kept.objectives.turn(now_s=NOW_S)
        kept.objectives.turn(now_s=NOW_S + 600)
        shown = kept.gauges()
        assert ("burn_rate", "availability", "long") in shown
        assert ("burn_rate", "availability", "short") not in shown
        assert shown["budget_left_ratio", "job_completion_time"] == 1.0

    def test_agree_with_what_the_page_says(self, kept: Kept) -> None:
        kept.answer(Outcome.ERROR)
        kept.objectives.turn(now_s=NOW_S)
        (burn, *_) = kept.objectives.burns(now_s=NOW_S)
        assert burn.is_burning
        assert kept.gauges()["burn_rate", "availability", "long"] == burn.long_rate
