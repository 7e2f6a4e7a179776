"""What rollouts are judged by: answers of each version, counted once, and their time between the bounds of buckets."""

from __future__ import annotations

import pytest

from serve_app.controller.rollout_sight import AnswersSeen
from tracing import names
from tracing.metrics import Delta, HistogramTotals, Key

BOUNDS = names.ANSWER_DURATION.buckets


def report(sequence: int, *, in_bucket: dict[int, int]) -> Delta:
    """Running totals of one gateway: answers of one version, by index of their bucket."""
    counts = tuple(in_bucket.get(index, 0) for index in range(len(BOUNDS) + 1))
    histograms: dict[Key, HistogramTotals] = {
        (names.ANSWER_DURATION.name, ("mini", "v1")): HistogramTotals(counts, 0.0),
    }
    return Delta(source="g", sequence=sequence, at_s=0.0, counters={}, gauges={}, histograms=histograms)


def latency_s(*reports: Delta) -> float | None:
    seen = AnswersSeen()
    for one in reports:
        seen.saw([one], now_s=0.0)
    return seen.traffic("mini", "v1", now_s=0.0).latency_s


class TestLatency:
    def test_lies_between_the_bounds_of_its_bucket(self) -> None:
        assert latency_s(report(1, in_bucket={3: 100})) == pytest.approx(
            BOUNDS[2] + 0.95 * (BOUNDS[3] - BOUNDS[2]), rel=1e-9
        )

    def test_hardly_moves_when_one_answer_more_falls_into_the_next_bucket(self) -> None:
        before = latency_s(report(1, in_bucket={3: 950, 4: 50}))
        after = latency_s(report(1, in_bucket={3: 949, 4: 51}))
        assert before is not None
        assert after is not None
        assert before == pytest.approx(BOUNDS[3])
        assert after < before * 1.05

    def test_is_the_last_bound_beyond_all(self) -> None:
        assert latency_s(report(1, in_bucket={len(BOUNDS): 10})) == BOUNDS[-1]

    def test_is_not_known_without_an_answer(self) -> None:
        assert latency_s(report(1, in_bucket={})) is None

    def test_counts_running_totals_once(self) -> None:
        one = report(1, in_bucket={3: 100})
        assert latency_s(one, report(2, in_bucket={3: 100})) == latency_s(one)
