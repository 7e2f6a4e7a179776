"""Means and quantiles of the last while, from readings and running totals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.scaling.recent import RecentMean, RecentQuantile

BOUNDS = (1.0, 2.0, 4.0)


class TestAMean:
    def test_is_of_the_last_half_minute(self) -> None:
        mean = RecentMean[str]()
        assert mean.add({"a": 1.0}, now_s=0) == {"a": 1.0}
        assert mean.add({"a": 0.0}, now_s=15) == {"a": 0.5}
        assert mean.add({"a": 0.0}, now_s=30) == {"a": 0.0}

    def test_begins_anew_when_its_readings_had_stopped(self) -> None:
        mean = RecentMean[str]()
        mean.add({"a": 1.0}, now_s=0)
        assert mean.add({}, now_s=5) == {}
        assert mean.add({"a": 0.0}, now_s=10) == {"a": 0.0}


class TestAQuantile:
    def test_is_of_what_was_observed_in_the_last_minute(self) -> None:
        recent = RecentQuantile[str](BOUNDS)
        recent.add({"a": (0, 0, 0, 1000)}, now_s=0)
        assert recent.add({"a": (100, 0, 0, 1000)}, now_s=60) == {"a": 0.95}
        assert recent.add({"a": (100, 0, 0, 1000)}, now_s=125) == {}

    def test_says_nothing_of_what_was_counted_before_it_was_seen(self) -> None:
        assert RecentQuantile[str](BOUNDS).add({"a": (5, 5, 5, 5)}, now_s=0) == {}

    def test_above_the_highest_bound_is_that_bound(self) -> None:
        recent = RecentQuantile[str](BOUNDS)
        recent.add({"a": (0, 0, 0, 0)}, now_s=0)
        assert recent.add({"a": (0, 0, 0, 9)}, now_s=5) == {"a": 4.0}

    @given(st.lists(st.floats(0.0, 4.0), min_size=1, max_size=40))
    def test_lies_in_the_bucket_of_the_true_one(self, observed: list[float]) -> None:
        counts = [0] * 4
        for value in observed:
            counts[next(index for index, bound in enumerate((*BOUNDS, 9)) if value <= bound)] += 1
        recent = RecentQuantile[str](BOUNDS)
        recent.add({"a": (0, 0, 0, 0)}, now_s=0)
        told = recent.add({"a": counts}, now_s=5)["a"]
        rank = -(-95 * len(observed) // 100) - 1
        true = sorted(observed)[rank]
        low = max((bound for bound in (0.0, *BOUNDS) if bound < true), default=0.0)
        high = next(bound for bound in BOUNDS if bound >= true)
        assert low <= told <= high
