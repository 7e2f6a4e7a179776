"""A goal becomes jobs until it is met or hopeless, and says why it ended."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.control_routes import ControlAsked
from serve_app.compare.score import CheckpointScore
from serve_app.goals.decide import MAX_WITHOUT_GAIN, decide
from serve_app.goals.goal import (
    Compared,
    Goal,
    GoalJob,
    GoalState,
    Hopeless,
    JobState,
    JobWanted,
    Met,
    Metric,
    Strategy,
    Submit,
    Wait,
)
from serve_app.goals.rest import GoalPages
from serve_app.goals.service import GoalService, JobReport
from serve_app.goals.store import MAX_OPEN, GoalStore
from tests.serve_app.compare.builders import score

GOAL = Goal(id="g1", model="tiny", metric=Metric.ACCURACY, target=0.9, deadline_s=1000.0, priority=5, created_at_s=0.0)


def at(accuracy: int, version: str) -> CheckpointScore:
    """Of a hundred questions."""
    return score("+" * accuracy + "-" * (100 - accuracy), version=version)


def job(before: str | None, *, state: JobState = JobState.DONE, took_s: float = 10.0, number: int = 0) -> GoalJob:
    return GoalJob(
        job_id=f"job-{number}",
        strategy=Strategy.MORE_STEPS,
        state=state,
        before=before,
        submitted_at_s=0.0,
        ended_at_s=None if state is JobState.ACTIVE else took_s,
    )


def strategy_of(jobs: list[GoalJob], compared: Compared, goal: Goal = GOAL) -> JobWanted:
    decision = decide(goal, jobs, compared, now_s=1.0)
    assert isinstance(decision, Submit)
    return decision.job


class TestDecision:
    def test_it_is_met_by_the_best_checkpoint(self) -> None:
        assert isinstance(decide(GOAL, [], Compared(scores=(at(50, "a"), at(90, "b"))), now_s=1.0), Met)
        assert isinstance(decide(GOAL, [], Compared(scores=(at(89, "a"),)), now_s=1.0), Submit)

    def test_a_loss_is_met_from_above(self) -> None:
        goal = replace(GOAL, metric=Metric.LOSS, target=0.4)
        assert isinstance(decide(goal, [], Compared(scores=(score("+", loss=0.39),)), now_s=1.0), Met)
        assert isinstance(decide(goal, [], Compared(scores=(score("+", loss=0.41),)), now_s=1.0), Submit)

    def test_one_job_at_a_time_and_no_next_before_its_checkpoints_are_scored(self) -> None:
        under_way = [job(None, state=JobState.ACTIVE)]
        assert isinstance(decide(GOAL, under_way, Compared(), now_s=1.0), Wait)
        assert isinstance(decide(GOAL, [job(None)], Compared(pending=True), now_s=1.0), Wait)

    def test_after_the_deadline_it_is_hopeless_even_while_a_job_runs(self) -> None:
        decision = decide(GOAL, [job(None, state=JobState.ACTIVE)], Compared(scores=(at(50, "a"),)), now_s=1000.0)
        assert decision == Hopeless("The deadline has passed with accuracy 0.5 of 0.9.")

    def test_it_is_hopeless_when_less_time_is_left_than_its_shortest_job_took(self) -> None:
        compared = Compared(scores=(at(10, "a"), at(60, "b")))
        jobs = [job("a", took_s=100.0)]
        assert isinstance(decide(GOAL, jobs, compared, now_s=899.0), Submit)
        assert isinstance(decide(GOAL, jobs, compared, now_s=901.0), Hopeless)

    def test_three_jobs_without_gain_are_hopeless_and_a_gain_counts_anew(self) -> None:
        compared = Compared(scores=(at(50, "a"), at(52, "b"), at(70, "c")))
        idle = [job("a") for _ in range(MAX_WITHOUT_GAIN)]
        only_a = Compared(scores=compared.scores[:1])
        assert isinstance(decide(GOAL, idle, only_a, now_s=1.0), Hopeless)
        assert isinstance(decide(GOAL, idle[:-1], only_a, now_s=1.0), Submit)
        assert isinstance(decide(GOAL, idle, compared, now_s=1.0), Submit)  # the last one led to c

    def test_a_gain_within_noise_is_none_unless_it_was_said_to_be_enough(self) -> None:
        compared = Compared(scores=(at(50, "a"), at(52, "b")))
        jobs = [job("a"), job("a"), job("a")]
        assert isinstance(decide(GOAL, jobs, compared, now_s=1.0), Hopeless)
        assert isinstance(decide(replace(GOAL, min_gain=0.02), jobs, compared, now_s=1.0), Submit)

    def test_failed_jobs_are_jobs_without_gain(self) -> None:
        jobs = [job(None, state=JobState.FAILED)] * 3
        assert isinstance(decide(GOAL, jobs, Compared(), now_s=1.0), Hopeless)

    def test_strategies_take_turns_from_the_best_checkpoint(self) -> None:
        wanted = []
        scores, jobs = [at(1, "v0")], list[GoalJob]()
        for number in range(5):
            wanted.append(strategy_of(jobs, Compared(scores=tuple(scores))))
            jobs.append(job(scores[-1].weights_version))
            scores.append(at(10 * (number + 1) + 1, f"v{number + 1}"))
        assert [one.strategy for one in wanted] == [*Strategy, Strategy.MORE_STEPS]
        assert [one.steps_scale for one in wanted] == [1, 1, 1, 1, 2]
        assert wanted[1].learning_rate_scale < 1
        assert wanted[2].seed != 0
        assert {one.parent for one in wanted} == {score("+").path}

    def test_a_reward_is_only_ever_reinforced_and_judged_by_what_jobs_report(self) -> None:
        goal = replace(GOAL, metric=Metric.REWARD, target=0.8)
        assert strategy_of([], Compared(), goal).strategy is Strategy.REINFORCE
        reported = [replace(job(None), reward=0.81)]
        assert isinstance(decide(goal, reported, Compared(), now_s=1.0), Met)

    @given(
        st.lists(st.builds(job, st.sampled_from(["a", "b", None]), state=st.sampled_from(JobState)), max_size=6),
        st.lists(st.integers(0, 100), max_size=4),
        st.floats(0, 2000),
    )
    def test_whatever_happened_it_never_submits_late_or_beside_another_job(
        self, jobs: list[GoalJob], accuracies: list[int], now_s: float
    ) -> None:
        scores = tuple(at(accuracy, "abcd"[place]) for place, accuracy in enumerate(accuracies))
        decision = decide(GOAL, jobs, Compared(scores=scores), now_s=now_s)
        if isinstance(decision, Submit):
            assert now_s < GOAL.deadline_s
            assert all(one.state is not JobState.ACTIVE for one in jobs)
        assert isinstance(decision, Met) is any(accuracy >= 90 for accuracy in accuracies)


class FakeJobs:
    """Jobs that end when a test says so; the same key is the same job."""

    def __init__(self) -> None:
        self.submitted: dict[str, JobWanted] = {}
        self.reports: dict[str, JobReport] = {}
        self.cancelled: list[str] = []
        self.fault: Exception | None = None

    async def submit(self, job: JobWanted, *, priority: int, key: str) -> str:
        if self.fault is not None:
            raise self.fault
        self.submitted.setdefault(key, job)
        return key

    async def report(self, job_id: str) -> JobReport:
        return self.reports.get(job_id, JobReport(state=JobState.ACTIVE))

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)


class FakeComparisons:
    def __init__(self) -> None:
        self.now = Compared()

    async def compared(self, model: str) -> Compared:
        return self.now


class World:
    """A service with all it needs, and its pages."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = GoalStore(sqlite3.connect(":memory:", isolation_level=None))
        self.jobs, self.comparisons = FakeJobs(), FakeComparisons()
        self.ids = iter(f"g{number}" for number in range(1, 1000))
        self.restart()

    def restart(self) -> None:
        self.service = GoalService(
            store=self.store, jobs=self.jobs, comparisons=self.comparisons, clock=lambda: self.now_s
        )
        self.pages = GoalPages(
            service=self.service,
            has_model=lambda model: model == "tiny",
            clock=lambda: self.now_s,
            new_id=lambda: next(self.ids),
        )

    async def ask(self, method: str, path: str, body: object = None, **query: str) -> tuple[int, dict[str, Any]]:
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self.pages.answer(ControlAsked(method=method, path=path, query=query, body=content))
        return answer.status, json.loads(answer.body)

    async def add(self, **changed: object) -> tuple[int, dict[str, Any]]:
        wanted = {"model": "tiny", "metric": "accuracy", "target": 0.9, "deadline_in_s": 1000, **changed}
        return await self.ask("POST", "/v1/goals", wanted)

    def entry(self, goal_id: str = "g1") -> tuple[GoalState, str]:
        found = self.store.entry(goal_id)
        assert found is not None
        return found.state, found.why


class TestGoals:
    async def test_a_goal_becomes_jobs_until_it_is_met(self) -> None:
        world = World()
        await world.add()
        await world.service.turn()
        assert list(world.jobs.submitted) == ["g1/0"]
        world.comparisons.now = Compared(scores=(at(60, "a"),))
        world.jobs.reports["g1/0"] = JobReport(state=JobState.DONE)
        await world.service.turn()
        assert list(world.jobs.submitted) == ["g1/0", "g1/1"]
        world.comparisons.now = Compared(scores=(at(60, "a"), at(95, "b")))
        world.jobs.reports["g1/1"] = JobReport(state=JobState.DONE)
        await world.service.turn()
        assert world.entry() == (GoalState.MET, "accuracy is 0.95, the target is 0.9.")

    async def test_a_restart_goes_on_where_it_was(self) -> None:
        world = World()
        await world.add()
        await world.service.turn()
        world.restart()
        await world.service.turn()
        assert (list(world.jobs.submitted), world.entry()[1]) == (["g1/0"], "Job g1/0 is under way.")

    async def test_what_cannot_be_submitted_now_is_tried_again_and_holds_up_nobody(self) -> None:
        world = World()
        await world.add()
        world.jobs.fault = RuntimeError("the queue is full")
        await world.service.turn()
        assert world.entry() == (GoalState.OPEN, "Trying again: the queue is full")
        world.jobs.fault = None
        await world.service.turn()
        assert list(world.jobs.submitted) == ["g1/0"]

    async def test_the_end_of_a_goal_cancels_the_job_that_still_runs(self) -> None:
        world = World()
        await world.add()
        await world.service.turn()
        world.now_s = 1001.0
        await world.service.turn()
        assert (world.entry()[0], world.jobs.cancelled) == (GoalState.HOPELESS, ["g1/0"])

    async def test_cancelling_ends_goal_and_job_and_is_no_error_twice(self) -> None:
        world = World()
        await world.add()
        await world.service.turn()
        for _ in range(2):
            status, told = await world.ask("DELETE", "/v1/goals/g1")
            assert (status, told["state"]) == (200, "cancelled")
        await world.service.turn()
        assert (world.jobs.cancelled, list(world.jobs.submitted)) == (["g1/0"], ["g1/0"])


class TestGoalPages:
    @pytest.mark.parametrize(
        ("changed", "status", "words"),
        [
            ({"model": "nobody"}, 404, "no model 'nobody'"),
            ({"target": 1.5}, 400, "above 0 and at most 1"),
            ({"metric": "loss", "target": -1}, 400, "0 or more"),
            ({"metric": "speed"}, 400, "metric"),
            ({"deadline_in_s": 0}, 400, "deadline_in_s"),
            ({"surprise": 1}, 400, "surprise"),
        ],
    )
    async def test_a_goal_nobody_can_meet_is_refused(self, changed: dict[str, object], status: int, words: str) -> None:
        told = await World().add(**changed)
        assert told[0] == status
        assert words in told[1]["error"]["message"]

    async def test_so_many_may_be_open(self) -> None:
        world = World()
        statuses = [(await world.add())[0] for _ in range(MAX_OPEN + 1)]
        assert statuses == [201] * MAX_OPEN + [429]

    async def test_they_are_listed_newest_first_in_pages(self) -> None:
        world = World()
        for _ in range(3):
            await world.add()
        _, first = await world.ask("GET", "/v1/goals", limit="2")
        _, second = await world.ask("GET", "/v1/goals", limit="2", before=str(first["next"]))
        assert [goal["id"] for goal in (*first["goals"], *second["goals"])] == ["g3", "g2", "g1"]
        assert second["next"] is None

    async def test_filters_are_checked_and_kept_to(self) -> None:
        world = World()
        await world.add()
        await world.ask("DELETE", "/v1/goals/g1")
        await world.add()
        _, told = await world.ask("GET", "/v1/goals", state="open")
        assert [goal["id"] for goal in told["goals"]] == ["g2"]
        for wrong in ({"state": "sad"}, {"limit": "0"}, {"before": "x"}, {"colour": "red"}):
            assert (await world.ask("GET", "/v1/goals", **wrong))[0] == 400

    async def test_what_is_not_there_is_404_and_what_is_not_possible_405(self) -> None:
        world = World()
        assert (await world.ask("GET", "/v1/goals/nobody"))[0] == 404
        assert (await world.ask("DELETE", "/v1/goals/nobody"))[0] == 404
        assert (await world.ask("PUT", "/v1/goals"))[0] == 405
