"""The loop: carries changes out beside itself, keeps what became of them, counts, and shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from serve_app.api.errors import ApiError
from serve_app.scaling.decision import MAX_HISTORY, Decision, History, Outcome
from serve_app.scaling.page import asked_scale, scale_answer, scaling_page
from serve_app.scaling.policy import Sample, ScalingPolicy
from serve_app.scaling.rules import Direction, Target
from serve_app.scaling.service import Applied, Blocked, ScalingService
from tests.serve_app.scaling.feeding import GATEWAY, MINI, ROOM, Feed, sample
from tracing.metrics import Recorder

FLOOR = "No room for 'mini': 1.2 GiB are missing above the headroom of 20 %."


@dataclass(slots=True)
class FakeScaler:
    """Answers what it is told to; `gate` holds it back until it is set."""

    answer: Applied | Blocked | Exception = field(default_factory=Applied)
    asked: list[tuple[Target, int]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def scale(self, target: Target, count: int, *, by_hand: bool) -> Applied | Blocked:
        self.asked.append((target, count))
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass(slots=True)
class Stage:
    scaler: FakeScaler
    feed: Feed = field(default_factory=Feed)
    samples: tuple[Sample, ...] = (sample(MINI, queue=60),)
    recorder: Recorder = field(default_factory=lambda: Recorder("test"))

    def __post_init__(self) -> None:
        self.scaler.gate.set()
        self.service = ScalingService(
            policy=ScalingPolicy(ROOM),
            scaler=self.scaler,
            measure=self.measure,
            recorder=self.recorder,
            now_s=lambda: self.feed.now_s,
            at=lambda: self.feed.at,
        )

    service: ScalingService = field(init=False)

    async def measure(self) -> Iterable[Sample]:
        return self.samples

    async def turns(self, duration_s: float) -> None:
        for _ in range(int(duration_s / 5) + 1):
            await self.service.turn()
            if self.scaler.gate.is_set():
                await self.service.aclose()
            else:
                await asyncio.sleep(0)
            self.feed.wait(5)

    def counted(self, *labels: str) -> float:
        """-1 where there is no such series."""
        (delta,) = self.recorder.drain()
        return delta.counters.get(("headroom_scaling_decisions_total", labels), -1)


class TestAChange:
    async def test_is_carried_out_counted_and_kept(self) -> None:
        on = Stage(FakeScaler())
        await on.turns(120)
        assert on.scaler.asked == [(MINI, 3)]
        assert on.counted("mini", "up", "applied") == 1
        (record,) = on.service.history()
        assert (record.decision.outcome, record.decision.reason) == (Outcome.APPLIED, "queue 60 > 50 for 120 s")

    async def test_blocked_by_headroom_says_what_was_missing_and_is_one_record(self) -> None:
        on = Stage(FakeScaler(Blocked(FLOOR)))
        await on.turns(300)
        assert len(on.scaler.asked) == 4
        (record,) = on.service.history()
        assert (record.decision.outcome, record.decision.message) == (Outcome.BLOCKED_BY_HEADROOM, FLOOR)
        assert record.times == 4
        assert on.counted("mini", "up", "blocked_by_headroom") == 1

    async def test_that_breaks_is_a_failure_and_the_loop_goes_on(self) -> None:
        on = Stage(FakeScaler(RuntimeError("no controller")))
        await on.turns(120)
        assert on.service.history()[0].decision.message == "no controller"
        on.scaler.answer = Applied()
        await on.turns(60)
        assert on.service.history()[0].decision.outcome is Outcome.APPLIED

    async def test_that_is_slow_keeps_no_other_target_waiting(self) -> None:
        on = Stage(FakeScaler())
        on.scaler.gate.clear()
        on.samples = (sample(MINI, queue=60), sample(GATEWAY, cpu=0.9))
        await on.turns(180)
        assert on.scaler.asked == [(MINI, 3), (GATEWAY, 3)]
        on.scaler.gate.set()
        await on.service.aclose()
        assert len(on.service.history()) == 2

    async def test_that_is_broken_off_leaves_the_target_free(self) -> None:
        on = Stage(FakeScaler())
        on.scaler.gate.clear()
        await on.service.turn()
        asking = asyncio.ensure_future(on.service.by_hand(MINI, 4))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert not on.service.standings()[0].is_changing
        assert on.service.history()[0].decision.outcome is Outcome.FAILED

    async def test_counters_are_born_at_zero(self) -> None:
        on = Stage(FakeScaler())
        await on.service.turn()
        assert on.counted("mini", "down", "cooling_down") == 0


class TestByHand:
    async def test_is_answered_with_what_became_of_it(self) -> None:
        on = Stage(FakeScaler(Blocked(FLOOR)))
        await on.service.turn()
        answer = scale_answer(await on.service.by_hand(MINI, 4))
        assert not isinstance(answer, ApiError)
        assert (answer["outcome"], answer["message"], answer["by_hand"]) == ("blocked_by_headroom", FLOOR, True)

    async def test_refused_is_409_with_the_sentence(self) -> None:
        on = Stage(FakeScaler())
        await on.service.turn()
        answer = scale_answer(await on.service.by_hand(MINI, 99))
        assert isinstance(answer, ApiError)
        assert answer.status == 409
        assert "its limits are 1 to 8" in answer.message

    @pytest.mark.parametrize(
        "body",
        [
            *(
                b"",
                b"[]",
                b"{}",
                b'{"target":"mini"}',
                b'{"target":"mini","count":-1}',
                b'{"target":"mini","count":65}',
            ),
            *(b'{"target":"mini","count":1.5}', b'{"target":"mini","count":"2"}', b'{"target":"","count":1}'),
            *(b'{"target":"mini","count":1,"force":true}', b'{"target":"mini","count":NaN}'),
        ],
    )
    def test_a_malformed_wish_is_400_and_says_what_is_expected(self, body: bytes) -> None:
        answer = asked_scale(body)
        assert isinstance(answer, ApiError)
        assert answer.status == 400
        assert "Expected `target`" in answer.message


class TestThePage:
    async def test_shows_limits_signals_what_holds_and_the_last_decisions(self) -> None:
        on = Stage(FakeScaler())
        await on.turns(120)
        page: dict[str, Any] = orjson.loads(orjson.dumps(scaling_page(on.service.standings(), on.service.history())))
        (target,) = page["targets"]
        assert (target["target"], target["replicas"], target["min_replicas"], target["max_replicas"]) == (
            "mini",
            2,
            1,
            8,
        )
        assert target["signals"] == {"queue": 60}
        assert target["cooling_s"] == 175
        (decision,) = page["decisions"]
        assert (decision["outcome"], decision["times"]) == ("applied", 1)
        assert decision["first_at"] == "2026-03-02T00:02:00+00:00"


class TestHistory:
    def test_is_bounded_and_newest_first(self) -> None:
        history = History()
        for number in range(MAX_HISTORY + 50):
            history.add(applied(number), at_s=number)
        kept = history.newest_first()
        assert len(kept) == MAX_HISTORY
        assert kept[0].decision.from_replicas == MAX_HISTORY + 49

    def test_keeps_equal_changes_apart_but_folds_equal_obstacles(self) -> None:
        history = History()
        assert [history.add(applied(1), at_s=0), history.add(applied(1), at_s=9)] == [True, True]
        blocked = replace(applied(1), outcome=Outcome.BLOCKED_BY_HEADROOM)
        assert [history.add(blocked, at_s=10), history.add(blocked, at_s=11)] == [True, False]
        assert (history.newest_first()[0].first_at_s, history.newest_first()[0].last_at_s) == (10, 11)


def applied(count: int) -> Decision:
    return Decision(
        target=MINI,
        direction=Direction.UP,
        from_replicas=count,
        to_replicas=count + 1,
        reason="",
        outcome=Outcome.APPLIED,
    )
