"""Error budgets and burn rates."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.objectives import ALERT_RESPONSE_TIME, AVAILABILITY, Bucket, Burn, burn

NOW_S = 30 * 86_400.0
COUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30)


def every_five_minutes(*counts: tuple[int, int]) -> tuple[Bucket, ...]:
    """Good and bad of each five minutes, the last of them ending now."""
    first_s = NOW_S - 300.0 * len(counts)
    return tuple(
        Bucket(start_s=first_s + 300.0 * index, num_good=good, num_total=good + bad)
        for index, (good, bad) in enumerate(counts)
    )


def burned(*counts: tuple[int, int], target: float = 0.99) -> Burn:
    return burn(replace(AVAILABILITY, target=target), every_five_minutes(*counts), now_s=NOW_S)


class TestBudget:
    def test_is_whole_before_anything_was_counted(self) -> None:
        answer = burned()
        assert (answer.budget_left, answer.long_rate, answer.short_rate, answer.is_burning) == (1.0, None, None, False)

    def test_is_spent_when_just_as_much_is_bad_as_may_be(self) -> None:
        assert burned((99, 1)).budget_left == pytest.approx(0.0)

    def test_falls_below_nothing_when_the_objective_is_missed(self) -> None:
        assert burned((98, 2)).budget_left == pytest.approx(-1.0)

    def test_forgets_what_is_older_than_the_objectives_window(self) -> None:
        old = Bucket(start_s=NOW_S - AVAILABILITY.window_s - 1.0, num_good=0, num_total=9)
        assert burn(AVAILABILITY, (old,), now_s=NOW_S).num_total == 0


class TestBurning:
    def test_needs_both_windows(self) -> None:
        """14.4 times a hundredth is bad, over an hour and over five minutes."""
        bad, good = (80, 20), (100, 0)
        assert burned(*[bad] * 12).is_burning
        assert not burned(*[good] * 11, bad).is_burning
        assert not burned(*[bad] * 11, good).is_burning

    def test_rates_are_multiples_of_what_the_target_allows(self) -> None:
        answer = burned(*[(100, 0)] * 11, (88, 12))
        assert answer.long_rate == pytest.approx(1.0)
        assert answer.short_rate == pytest.approx(12.0)

    @given(COUNTS, st.integers(1, 50))
    def test_more_failures_never_look_better(self, counts: list[tuple[int, int]], more: int) -> None:
        """Shown to fail with good and total exchanged in `_rate`."""
        before = burned(*counts, (1, 0))
        after = burned(*counts, (1, more))
        assert after.budget_left < before.budget_left
        assert (after.short_rate or 0.0) > (before.short_rate or 0.0)
        assert after.is_burning >= before.is_burning


class TestTimes:
    def test_are_good_up_to_their_limit(self) -> None:
        assert ALERT_RESPONSE_TIME.is_good(60.0)
        assert not ALERT_RESPONSE_TIME.is_good(60.1)
