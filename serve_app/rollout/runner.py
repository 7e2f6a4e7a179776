"""Drives one rollout from where it stands to its end: write, act, listen, decide, and again.

The only owner of a record under way: commands of people wait for it in a queue. What it may not lose is in the
ledger before it is acted on.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.logs import logger
from serve_app.rollout.effects import Effects
from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.record import Record, Stage
from serve_app.rollout.stages import WHOLE, Asked, Effect, Event, Failed, Looked, Move, RolloutPolicy, TimedOut, decide
from serve_app.rollout.world import World

MAX_WAITING: Final = 16
"""Commands that wait for one rollout."""
Tell = Callable[[Record], None]
"""Called with every record that was written; it must not block for long, and what it raises is only logged."""


@dataclass(slots=True)
class _Running:
    effect: Effect
    task: asyncio.Task[Event]


class Runner:
    """`context` gives the `traceparent` under which a stage's work is done."""

    def __init__(
        self,
        *,
        ledger: RolloutLedger,
        world: World,
        policy: RolloutPolicy,
        tell: Sequence[Tell] = (),
        context: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._clock = world.clock
        self._effects = Effects(world, policy)
        self._policy = policy
        self._tell = tuple(tell)
        self._context = context
        self._asked: deque[Asked] = deque()
        self._woken = asyncio.Event()

    def ask(self, asked: Asked) -> bool:
        """False when too many wait already."""
        if len(self._asked) >= MAX_WAITING:
            return False
        self._asked.append(asked)
        self._woken.set()
        return True

    async def drive(self, move: Move) -> Record:
        """Until it is over. May be called again with `stages.recover` of what the ledger holds."""
        running: _Running | None = None
        seen_s = self._clock.monotonic_s()
        self._asked.clear()
        try:
            while True:
                move = await self._written(move)
                if move.effect is not None or move.record.is_over:
                    await _stop(running)
                    running = None
                if move.record.is_over:
                    return move.record
                if move.effect is not None:
                    running = _Running(move.effect, asyncio.create_task(self._perform(move.effect, move)))
                event = await self._next(move.record, running)
                running = running if isinstance(event, Asked | Looked) else None
                now_s = self._clock.monotonic_s()
                move = self._decide(move.record, event, elapsed_s=now_s - seen_s)
                seen_s = now_s
        finally:
            if running is not None:
                running.task.cancel()

    def _decide(self, record: Record, event: Event, *, elapsed_s: float) -> Move:
        unix_s = self._clock.unix_s()
        return decide(record, event, elapsed_s=elapsed_s, unix_s=unix_s, policy=self._policy)

    async def _written(self, move: Move) -> Move:
        """What may be acted on. A stage that cannot be written is not begun; a return is, for gates may be closed.

        Without it the store says "switching", and `recover` of that comes to the same return.
        """
        while True:
            try:
                self._ledger.save(move.record)
            except sqlite3.Error as error:
                log.error("rollout not written", rollout=move.record.id, stage=move.record.stage, error=repr(error))
                if move.record.is_over:
                    await self._clock.sleep(self._policy.most_again_s)
                    continue
                if move.record.stage is Stage.RETURNING:
                    return move
                move = self._decide(
                    move.record, Failed(reason=f"The store could not be written: {error}."), elapsed_s=0
                )
                continue
            self._told(move.record)
            return move

    def _told(self, record: Record) -> None:
        for tell in self._tell:
            try:
                tell(record)
            except Exception as error:  # noqa: BLE001  # theirs, of any kind; the rollout goes on
                log.error("rollout could not be told", rollout=record.id, error=repr(error))

    async def _perform(self, effect: Effect, move: Move) -> Event:
        if move.after_s:
            await self._clock.sleep(move.after_s)
        limit_s = self._policy.limits_s[effect]
        try:
            async with asyncio.timeout(limit_s):
                return await self._effects.carry_out(effect, move.record, traceparent=self._context())
        except TimeoutError:
            return TimedOut(limit_s=limit_s)

    async def _next(self, record: Record, running: _Running | None) -> Event:
        """What happens first: the effect ends, a person asks, or it is time to look."""
        if running is not None and running.effect in WHOLE:
            return await running.task
        if not self._asked:
            await self._first(running)
        if running is not None and running.task.done():
            return running.task.result()
        if self._asked:
            return self._asked.popleft()
        return await self._look(record)

    async def _first(self, running: _Running | None) -> None:
        self._woken.clear()
        waiting: set[asyncio.Task[object]] = {
            asyncio.ensure_future(self._woken.wait()),
            asyncio.ensure_future(self._clock.sleep(self._policy.look_s)),
        }
        try:
            await asyncio.wait(waiting | ({running.task} if running else set()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _look(self, record: Record) -> Looked:
        """Blind where the world cannot be read: then nothing is proven, and nothing is turned back for it."""
        try:
            async with asyncio.timeout(self._policy.look_limit_s):
                is_observing = record.stage is Stage.OBSERVING
                return await self._effects.look(record, is_observing=is_observing)
        except Exception as error:  # noqa: BLE001  # whatever the world raises
            log.warning("rollout cannot see", rollout=record.id, stage=record.stage, error=repr(error))
            return Looked(is_blind=True)


async def _stop(running: _Running | None) -> None:
    """Breaks off what may be broken off, and waits until it has ended."""
    if running is not None and not running.task.done():
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running.task


log = logger(__name__)
