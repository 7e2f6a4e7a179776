"""Counts of objectives in the store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from placement.objectives import Bucket, ObjectiveName
from serve_app.ops.objective_counts import KEPT_S, ObjectiveCounts

JOBS, ALERTS = ObjectiveName.JOB_COMPLETION_TIME, ObjectiveName.ALERT_RESPONSE_TIME


def opened(path: Path) -> ObjectiveCounts:
    return ObjectiveCounts(sqlite3.connect(path, isolation_level=None))


class TestCounts:
    def test_add_up_within_five_minutes_and_survive_a_restart(self, tmp_path: Path) -> None:
        counts = opened(tmp_path / "state.sqlite")
        counts.count(JOBS, num_good=1, num_total=1, at_s=600.0)
        counts.count(JOBS, num_good=0, num_total=1, at_s=899.9)
        counts.count(JOBS, num_good=1, num_total=1, at_s=900.0)
        again = opened(tmp_path / "state.sqlite")
        assert again.buckets(JOBS, since_s=0.0) == (
            Bucket(start_s=600.0, num_good=1, num_total=2),
            Bucket(start_s=900.0, num_good=1, num_total=1),
        )
        assert again.buckets(JOBS, since_s=601.0) == (Bucket(start_s=900.0, num_good=1, num_total=1),)

    def test_of_one_objective_are_not_anothers(self, tmp_path: Path) -> None:
        counts = opened(tmp_path / "state.sqlite")
        counts.count(ALERTS, num_good=1, num_total=1, at_s=600.0)
        assert counts.buckets(JOBS, since_s=0.0) == ()

    def test_older_than_the_longest_window_are_dropped(self, tmp_path: Path) -> None:
        counts = opened(tmp_path / "state.sqlite")
        counts.count(JOBS, num_good=1, num_total=1, at_s=600.0)
        counts.count(JOBS, num_good=1, num_total=1, at_s=601.0 + KEPT_S)
        assert len(counts.buckets(JOBS, since_s=0.0)) == 1
