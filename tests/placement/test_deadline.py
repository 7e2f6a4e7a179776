"""The whole of a solve ends by the shell's clock, and a clock that never gets there changes nothing."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.check import verify
from placement.deadline import NO_DEADLINE, Deadline
from placement.policy import Goal, Policy
from placement.solver import solve
from tests.placement.builders import demand, fleet, problems, rich_problems
from tests.placement.test_packing import Question

ANY = problems() | rich_problems()


def large(goal: Goal) -> Question:
    """More than fits, so that every search has something to do and refusals need words."""
    demands = tuple(demand(f"m{i}", gib=5 + i * 7 % 25, loading_gib=i % 3, replicas=4) for i in range(40))
    return fleet(*(f"n{i}: 8x80GiB" for i in range(4))), demands, Policy(goal=goal)


class TestDeadline:
    def test_without_a_clock_it_never_comes(self) -> None:
        assert (NO_DEADLINE.is_over, NO_DEADLINE.left_s) == (False, float("inf"))

    def test_it_comes_when_the_clock_says_so(self) -> None:
        deadline = Deadline(2.0, lambda: 1.5)
        assert (deadline.is_over, deadline.left_s) == (False, 0.5)

    def test_that_of_searches_comes_earlier_the_more_there_is_to_say(self) -> None:
        deadline = Deadline(2.0, lambda: 1.0)
        assert [deadline.of_search(num).is_over for num in (0, 100, 10_000)] == [False, False, True]


class TestSolve:
    @given(ANY)
    @settings(max_examples=25)
    def test_a_clock_that_does_not_run_changes_nothing(self, question: Question) -> None:
        assert solve(*question, elapsed_s=lambda: 0.0) == solve(*question)

    @given(ANY, st.integers(1, 30))
    @settings(max_examples=60)
    def test_a_plan_is_sound_whenever_time_runs_out(self, question: Question, ticks: int) -> None:
        ticking = count()
        plan = solve(*question, elapsed_s=lambda: 2.0 * next(ticking) / ticks)
        assert verify(plan, *question) == ()

    @pytest.mark.parametrize("goal", list(Goal))
    @pytest.mark.parametrize("ticks", [1, 30, 300])
    def test_so_is_that_of_a_large_fleet_and_it_says_how_far_from_the_best(self, goal: Goal, ticks: int) -> None:
        question, ticking = large(goal), count()
        plan = solve(*question, elapsed_s=lambda: 2.0 * next(ticking) / ticks)
        assert verify(plan, *question) == ()
        assert plan.gap is not None
        assert plan.refusals

    def test_when_time_is_over_nothing_more_is_tried_out(self) -> None:
        ticking = count()
        plan = solve(*large(Goal.SPREAD), elapsed_s=lambda: 2.0 * next(ticking))
        assert plan.solver == "greedy"
        assert next(ticking) < 1000
        assert all(refusal.advice.startswith("Add a device") for refusal in plan.refusals)
