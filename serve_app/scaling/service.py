"""The loop around the policy: samples in, changes carried out by a `Scaler`, all of it kept and counted.

A change runs beside the loop, so that a slow one keeps no other target from being measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import product
from typing import Final, Protocol

from serve_app.logs import logger
from serve_app.scaling.decision import Decision, History, Outcome, Record
from serve_app.scaling.policy import Sample, ScalingPolicy, Standing
from serve_app.scaling.rules import Direction, Target
from tracing import names
from tracing.metrics import Recorder

log = logger(__name__)

CHANGE_TIMEOUT_S: Final = 240.0
"""Of one change. Source: row B10, scaled within 5 minutes after the hold time ends."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The new count is in force, or on its way with its room reserved."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """There is no room above the headroom; `sentence` says how much was missing and where."""

    sentence: str


class Scaler(Protocol):
    """Carries out a count through plan and apply. Nothing is changed where it says `Blocked`; 0 means sleep.

    Whatever it raises is a fault of the world: the change counts as failed, and is tried again later. A count that
    was asked for `by_hand` takes the place of the configured one, after a restart too.
    """

    async def scale(self, target: Target, count: int, *, by_hand: bool) -> Applied | Blocked: ...


class ScalingService:
    """`now_s` is monotonic; `at` tells wall-clock time with its zone."""

    def __init__(
        self,
        *,
        policy: ScalingPolicy,
        scaler: Scaler,
        measure: Callable[[], Awaitable[Iterable[Sample]]],
        recorder: Recorder,
        now_s: Callable[[], float],
        at: Callable[[], datetime],
    ) -> None:
        self._policy = policy
        self._scaler = scaler
        self._measure = measure
        self._recorder = recorder
        self._now_s = now_s
        self._at = at
        self._history = History()
        self._changes: set[asyncio.Task[Decision]] = set()
        self._counted: set[Target] = set()

    async def turn(self) -> None:
        """Measure once and start what follows. Called every few seconds; at most one change of a target at a time."""
        samples = tuple(await self._measure())
        self._count_from_zero(sample.target for sample in samples)
        for decision in self._policy.saw(samples, now_s=self._now_s(), at=self._at()):
            if decision.outcome is None:
                task = asyncio.get_running_loop().create_task(self._carried_out(decision))
                self._changes.add(task)
                task.add_done_callback(self._changes.discard)
            else:
                self._keep(decision)

    async def by_hand(self, target: Target, count: int) -> Decision | str:
        """What became of a person's wish, or the sentence that refuses it."""
        decision = self._policy.by_hand(target, count, now_s=self._now_s(), at=self._at())
        return decision if isinstance(decision, str) else await self._carried_out(decision)

    def standings(self) -> tuple[Standing, ...]:
        return self._policy.standings(now_s=self._now_s())

    def history(self) -> tuple[Record, ...]:
        return self._history.newest_first()

    async def aclose(self) -> None:
        """Wait for changes under way."""
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def _carried_out(self, wanted: Decision) -> Decision:
        settled = replace(wanted, outcome=Outcome.FAILED, message="it was broken off")
        try:
            settled = await self._scaled(wanted)
        finally:
            self._policy.settled(settled, now_s=self._now_s())
            self._keep(settled)
        return settled

    async def _scaled(self, wanted: Decision) -> Decision:
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                result = await self._scaler.scale(wanted.target, wanted.to_replicas, by_hand=wanted.by_hand)
        except TimeoutError:
            return replace(wanted, outcome=Outcome.FAILED, message=f"not done within {CHANGE_TIMEOUT_S:.0f} s")
        except Exception as error:  # noqa: BLE001  # whatever the transport of the shell raises means the same here
            log.error("scaling failed", target=wanted.target.name, count=wanted.to_replicas, error=repr(error))
            return replace(wanted, outcome=Outcome.FAILED, message=str(error) or type(error).__name__)
        match result:
            case Applied():
                return replace(wanted, outcome=Outcome.APPLIED)
            case Blocked(sentence=sentence):
                return replace(wanted, outcome=Outcome.BLOCKED_BY_HEADROOM, message=sentence)

    def _count_from_zero(self, targets: Iterable[Target]) -> None:
        """A counter born at 1 hides its first decision from `increase()`."""
        for target in set(targets) - self._counted:
            self._counted.add(target)
            for direction, outcome in product(Direction, Outcome):
                self._recorder.counter(names.SCALING_DECISIONS, target.name, direction.value, outcome.value)

    def _keep(self, decision: Decision) -> None:
        assert decision.outcome is not None
        if not self._history.add(decision, at_s=self._at().timestamp()):
            return
        labels = (decision.target.name, decision.direction.value, decision.outcome.value)
        self._recorder.counter(names.SCALING_DECISIONS, *labels).inc()
        log.info(
            "scaling decided",
            target=labels[0],
            outcome=labels[2],
            before=decision.from_replicas,
            after=decision.to_replicas,
            reason=decision.reason,
        )
