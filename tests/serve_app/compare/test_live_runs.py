"""Test sets through the live API: when they are due, what is kept, and when somebody must be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.compare.live_runs import LiveApi, LiveRuns, LiveRunStore, Serving
from serve_app.compare.live_schedule import Regression, Schedule, is_due
from serve_app.compare.questions import Question, questions_digest
from serve_app.errors import NotRunning
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


@dataclass
class World:
    """A live API that answers the first `num_right` questions right, and all who want to know."""

    num_right: int = 10
    fault: Exception | None = None
    serves: list[Serving | None] = field(default_factory=lambda: [SERVING])
    told: list[Regression | None] = field(default_factory=list)
    failures: list[dict[str, int]] = field(default_factory=list)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.store = LiveRunStore(database())
        self.runs = LiveRuns(
            schedules=(Schedule(model="mini", every_s=60.0),),
            store=self.store,
            live=self,
            serving=lambda model: self.serves[0] if len(self.serves) == 1 else self.serves.pop(0),
            feedback=self,
            on_regression=lambda model, found: self.told.append(found),
            clock=lambda: self.now_s,
        )

    async def ask(self, model: str, questions: Sequence[Question]) -> Sequence[str]:
        if self.fault is not None:
            raise self.fault
        return [one.answer if place < self.num_right else "" for place, one in enumerate(questions)]

    def failed(self, model: str, failures: Mapping[str, int]) -> None:
        self.failures.append(dict(failures))


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


class TestLiveRuns:
    async def test_results_are_a_series_in_the_store(self) -> None:
        world = World()
        for world.now_s in (0.0, 30.0, 60.0):
            await world.runs.turn()
        assert [(run.at_s, run.accuracy) for run in world.store.series("mini")] == [(60.0, 1.0), (0.0, 1.0)]

    async def test_worse_beyond_noise_than_when_it_was_compared_is_a_regression_until_it_is_not(self) -> None:
        world = World()
        for world.num_right, world.now_s in ((10, 0.0), (5, 60.0), (3, 120.0), (10, 180.0)):
            await world.runs.turn()
        assert [found and found.run.accuracy for found in world.told] == [None, None, 0.3, None]
        assert world.told[2] is not None
        assert world.told[2].rule == "RolloutRegression"
        assert "30.0% of its test set" in world.told[2].message

    async def test_other_weights_than_were_recorded_say_nothing(self) -> None:
        world = World(num_right=0, serves=[replace(SERVING, weights_version="b" * 12)])
        await world.runs.turn()
        assert world.told == [None]

    async def test_a_run_over_a_change_of_weights_does_not_count(self) -> None:
        world = World(serves=[SERVING, replace(SERVING, weights_version="b" * 12)])
        assert await world.runs.run_now("mini") is None
        assert world.store.series("mini") == ()

    async def test_what_was_answered_wrong_goes_to_the_next_job_by_kind(self) -> None:
        world = World(num_right=7)
        await world.runs.turn()
        assert world.failures == [{"even": 1, "odd": 2}]

    async def test_an_api_that_does_not_answer_is_asked_again_at_the_next_time(self) -> None:
        world = World(fault=NotRunning("Nothing answers."))
        await world.runs.turn()
        world.fault = None
        await world.runs.turn()
        assert world.store.series("mini") == ()
        world.now_s = 60.0
        await world.runs.turn()
        assert len(world.store.series("mini")) == 1

    async def test_the_live_api_answers_in_the_order_of_the_questions(self) -> None:
        questions = [
            Question(prompt="1?", answer="1", max_tokens=20),
            Question(prompt="2?", answer="2"),
            Question(prompt="3?", answer="3", max_tokens=20),
        ]
        with openai_api(lambda prompt: prompt.rstrip("?")) as (base_url, seen):
            live = LiveApi(base_url=base_url, api_key="none", concurrency=2)
            assert list(await live.ask("mini", questions)) == ["1", "2", "3"]
        assert sorted(body["max_tokens"] for body in seen.bodies) == [16, 20, 20]
