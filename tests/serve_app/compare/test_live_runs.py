"""Test sets through the live API: when they are due, what is kept, and when somebody must be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.compare.live_api import ATTEMPTS, LiveApi
from serve_app.compare.live_runs import (
    AGAIN_S,
    MOST_ASKED,
    MOST_RETRIED,
    PACE_S,
    SETTLED_S,
    Answer,
    LiveRuns,
    LiveRunStore,
    Serving,
)
from serve_app.compare.live_schedule import LiveRun, Regression, Schedule, is_due
from serve_app.compare.questions import Question, questions_digest
from serve_app.errors import HeadroomError, NotRunning
from serve_app.training.self_correction import AGAIN, Message
from tests.serve_app.compare.builders import database, score
from tests.serve_app.training.answering_api import openai_api

QUESTIONS = tuple(
    Question(prompt=f"{number}?", answer=str(number), kind="odd" if number % 2 else "even") for number in range(10)
)
SERVING = Serving(
    weights_version="a" * 12, recorded=score("+" * 10, test_set=questions_digest(QUESTIONS)), questions=QUESTIONS
)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


EVERY_S = 3600.0


@dataclass
class World:
    """A live API that answers the first `num_right` questions right, and all who want to know."""

    num_right: int = 10
    fault: Exception | None = None
    serves: Serving | None = SERVING
    answers_with: str = SERVING.weights_version
    logprob: float | None = -0.1
    every_s: float = EVERY_S
    told: list[Regression | None] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    paused_s: float = 0.0
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.store = LiveRunStore(database())
        self.runs = LiveRuns(
            schedules=lambda: (Schedule(model="mini", every_s=self.every_s),),
            store=self.store,
            live=self,
            served=self,
            listener=self,
            clock=lambda: self.now_s,
            pause=self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        self.paused_s += seconds

    def version(self, model: str) -> str | None:
        return None if self.serves is None else self.serves.weights_version

    async def serving(self, model: str) -> Serving | None:
        return self.serves

    async def ask(self, model: str, messages: Sequence[Message], *, max_tokens: int) -> Answer:
        if self.fault is not None:
            raise self.fault
        prompt = messages[0]["content"]
        self.prompts.append(messages[-1]["content"])
        text = prompt.rstrip("?") if int(prompt.rstrip("?")) < self.num_right else "no"
        logprobs = () if self.logprob is None else (self.logprob,)
        return Answer(text=text, logprobs=logprobs, weights_version=self.answers_with)

    def asked(self, run: LiveRun, served: Serving, found: Regression | None) -> None:
        self.told.append(found)

    async def at(self, now_s: float) -> int:
        """How many runs there are after a turn at this time."""
        self.now_s = now_s
        await self.runs.turn()
        return len(self.store.series("mini"))


def serving(*, version: str = "a" * 12, num_questions: int = 10) -> Serving:
    questions = tuple(Question(prompt=f"{number}?", answer=str(number)) for number in range(num_questions))
    recorded = score("+" * num_questions, version=version, test_set=questions_digest(questions))
    return Serving(weights_version=version, recorded=recorded, questions=questions)


class TestSchedule:
    @given(st.floats(1, 1e6), st.floats(0, 1e9), st.floats(0, 1e9))
    def test_an_interval_is_due_after_its_length_and_when_the_clock_went_back(
        self, every_s: float, last_s: float, now_s: float
    ) -> None:
        schedule = Schedule(model="m", every_s=every_s)
        assert is_due(schedule, last_s=last_s, now_s=now_s) is (last_s > now_s or now_s - last_s >= every_s)

    @pytest.mark.parametrize(
        ("last", "now", "due"),
        [
            ("2026-11-24 03:00:00", "2026-11-24 03:00:59", False),
            ("2026-11-24 02:59:59", "2026-11-24 03:00:00", True),
            ("2026-11-23 03:00:01", "2026-11-24 02:59:59", False),
            ("2026-11-20 03:00:01", "2026-11-24 02:59:59", True),
        ],
    )
    def test_a_cron_schedule_is_due_once_after_each_opening(self, last: str, now: str, due: bool) -> None:
        schedule = Schedule(model="m", cron="0 3 * * *")
        assert is_due(schedule, last_s=moment(last), now_s=moment(now)) is due

    def test_what_never_ran_is_due(self) -> None:
        assert is_due(Schedule(model="m", cron="0 3 * * *"), last_s=None, now_s=0.0)


class TestWhenItIsAsked:
    async def test_new_weights_once_they_have_settled_and_then_by_the_schedule(self) -> None:
        world = World()
        assert [await world.at(at_s) for at_s in (0.0, SETTLED_S - 1, SETTLED_S, SETTLED_S + 60)] == [0, 0, 1, 1]
        assert [await world.at(SETTLED_S + at_s) for at_s in (EVERY_S - 1, EVERY_S)] == [1, 2]

    async def test_other_weights_do_not_wait_for_the_schedule(self) -> None:
        world = World()
        assert [await world.at(at_s) for at_s in (0.0, SETTLED_S)] == [0, 1]
        world.serves, world.answers_with = serving(version="b" * 12), "b" * 12
        assert [await world.at(SETTLED_S + at_s) for at_s in (60.0, 60.0 + SETTLED_S)] == [1, 2]

    async def test_what_does_not_serve_is_asked_when_it_does(self) -> None:
        world = World(serves=None)
        assert await world.at(SETTLED_S) == 0
        world.serves = SERVING
        assert [await world.at(at_s) for at_s in (1e6, 1e6 + SETTLED_S)] == [0, 1]

    async def test_a_run_that_does_not_count_is_made_again_and_not_at_once(self) -> None:
        world = World(fault=NotRunning("Nothing answers."))
        assert [await world.at(at_s) for at_s in (0.0, SETTLED_S)] == [0, 0]
        world.fault = None
        assert [await world.at(SETTLED_S + at_s) for at_s in (60.0, AGAIN_S - 1, AGAIN_S)] == [0, 0, 1]

    async def test_each_question_waits_its_turn(self) -> None:
        world = World(num_right=8)
        await world.runs.run_now("mini")
        assert world.paused_s == (10 + 2) * PACE_S

    async def test_of_a_long_test_set_the_first_questions_alone(self) -> None:
        world = World(num_right=0, serves=serving(num_questions=MOST_ASKED + 5))
        run = await world.runs.run_now("mini")
        assert run is not None
        assert len(run.right) == MOST_ASKED
        assert len(world.prompts) == MOST_ASKED + MOST_RETRIED
        assert world.told[0] is not None
        assert world.told[0].difference.num_asked == MOST_ASKED


class TestLiveRuns:
    async def test_results_are_a_series_in_the_store(self) -> None:
        world = World()
        for world.now_s in (0.0, 60.0):
            await world.runs.run_now("mini")
        assert [(run.at_s, run.accuracy) for run in world.store.series("mini")] == [(60.0, 1.0), (0.0, 1.0)]

    async def test_worse_beyond_noise_than_when_it_was_compared_is_a_regression_until_it_is_not(self) -> None:
        world = World()
        for world.num_right in (10, 5, 3, 10):
            await world.runs.run_now("mini")
        assert [found and found.run.accuracy for found in world.told] == [None, None, 0.3, None]
        assert world.told[2] is not None
        assert world.told[2].rule == "RolloutRegression"
        assert "30.0% of its test set" in world.told[2].message

    async def test_other_weights_than_were_recorded_say_nothing(self) -> None:
        other = "b" * 12
        world = World(num_right=0, serves=replace(SERVING, weights_version=other), answers_with=other)
        await world.runs.run_now("mini")
        assert world.told == [None]

    async def test_a_run_in_which_other_weights_answer_does_not_count(self) -> None:
        world = World(answers_with="b" * 12)
        assert await world.runs.run_now("mini") is None
        assert (world.store.series("mini"), world.told, len(world.prompts)) == ((), [], 1)

    async def test_wrong_answers_are_asked_again_and_none_of_it_changes_the_accuracy(self) -> None:
        world = World(num_right=7)
        run = await world.runs.run_now("mini")
        assert run is not None
        assert world.prompts[10:] == [AGAIN] * 3
        assert (run.accuracy, run.correction.num_retried, run.correction.num_repeated) == (0.7, 3, 3)


class TestCalibration:
    async def test_is_measured_on_answers_that_come_with_their_log_probabilities(self) -> None:
        world = World(num_right=0, logprob=-0.1)
        run = await world.runs.run_now("mini")
        assert run is not None
        assert run.calibration is not None
        assert run.calibration.raw_error == pytest.approx(0.905, abs=1e-3)

    async def test_is_of_every_kind_where_kinds_take_turns(self) -> None:
        """Odd numbers alone are wrong; every other question of the test set is of one kind."""
        world = World()
        kinds = tuple(replace(one, answer="7" if one.kind == "odd" else one.answer) for one in QUESTIONS)
        world.serves = replace(SERVING, questions=kinds, recorded=None)
        run = await world.runs.run_now("mini")
        assert run is not None
        assert run.calibration is not None
        assert 0.2 < run.calibration.raw_error < 0.6

    async def test_is_unknown_where_the_engine_gives_none(self) -> None:
        run = await World(logprob=None).runs.run_now("mini")
        assert run is not None
        assert run.calibration is None


class TestLiveApi:
    async def test_asks_greedily_past_the_cache_and_says_whose_answer_it_is(self) -> None:
        with openai_api(lambda prompt: prompt.rstrip("?"), headers={"x-headroom-weights-version": "abc"}) as (
            url,
            seen,
        ):
            live = LiveApi(address=lambda: url.removesuffix("/v1"), secret="secret")
            answer = await live.ask("mini", [{"role": "user", "content": "3?"}], max_tokens=9)
        assert answer == Answer(text="3", logprobs=(-0.25,), weights_version="abc")
        (body,) = seen.bodies
        assert (body["temperature"], body["max_tokens"], body["logprobs"]) == (0, 9, True)
        assert seen.cache_controls == ["no-store"]
        assert seen.secrets == ["secret"]

    async def test_asks_a_busy_cluster_again_and_then_gives_up(self) -> None:
        with openai_api(lambda _: "", status=503) as (url, seen):
            live = LiveApi(address=lambda: url.removesuffix("/v1"), secret="", first_wait_s=0.0)
            with pytest.raises(NotRunning, match="503"):
                await live.ask("mini", [{"role": "user", "content": "3?"}], max_tokens=9)
        assert len(seen.bodies) == ATTEMPTS

    async def test_takes_a_refusal_for_what_it_is(self) -> None:
        with openai_api(lambda _: "", status=400) as (url, seen):
            live = LiveApi(address=lambda: url.removesuffix("/v1"), secret="", first_wait_s=0.0)
            with pytest.raises(HeadroomError, match="400"):
                await live.ask("mini", [{"role": "user", "content": "3?"}], max_tokens=9)
        assert len(seen.bodies) == 1

    async def test_without_a_gateway_nothing_is_asked(self) -> None:
        live = LiveApi(address=lambda: None, secret="", first_wait_s=0.0)
        with pytest.raises(NotRunning, match="registered"):
            await live.ask("mini", [], max_tokens=1)
