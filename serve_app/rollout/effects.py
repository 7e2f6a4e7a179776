"""Carries out one effect of the stage machine and says what came of it. Owns nothing; decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from serve_app.errors import HeadroomError
from serve_app.rollout.record import Learned, Mode, Record, Room, Way
from serve_app.rollout.stages import Done, Effect, Event, Failed, Looked, RolloutPolicy, is_to_be_checked
from serve_app.rollout.transaction import (
    RolloutFault,
    all_of,
    check_words,
    fault_of,
    put_back,
    settle,
    switch_all,
    words_of_new,
)
from serve_app.rollout.triggers import Trigger, answer_triggers, health_triggers, quality_trigger
from serve_app.rollout.world import World


class WorseAnswers(HeadroomError):
    """What stands beside the old weights answers worse than is allowed."""

    def __init__(self, trigger: Trigger) -> None:
        super().__init__(trigger.reason)
        self.trigger = trigger


class Effects:
    def __init__(self, world: World, policy: RolloutPolicy) -> None:
        self._world = world
        self._policy = policy

    async def carry_out(self, effect: Effect, record: Record, *, traceparent: str | None) -> Event:
        """Never raises for what went wrong in the world."""
        try:
            return Done(learned=await _WORK[effect](self, record, traceparent))
        except WorseAnswers as worse:
            return Failed(reason=worse.trigger.reason, trigger=worse.trigger)
        except Exception as error:  # noqa: BLE001  # of any kind: all of them turn the rollout back
            return Failed(reason=fault_of(error))

    async def look(self, record: Record, *, is_observing: bool) -> Looked:
        """What is wrong now, the most urgent first. Answers are judged while both versions, or the new one, serve."""
        world = self._world
        found = health_triggers(await world.watch.signals(record.model), is_observing=is_observing)
        if is_observing or record.has_candidate:
            now = await world.judge.traffic(record.model, record.new.version)
            found += answer_triggers(record.learned.before, now)
        to_be_checked = is_observing and is_to_be_checked(record, self._policy)
        checks = await world.checks.found(record.id, record.model) if to_be_checked else None
        return Looked(triggers=found, checks=checks)

    async def _back_up(self, record: Record, _: str | None) -> Learned:
        backup = await self._world.backup.back_up(record.model, reason=f"before rollout {record.id}")
        return replace(record.learned, backup=backup)

    async def _restore(self, record: Record, _: str | None) -> Learned:
        if record.learned.backup is None:
            raise RolloutFault("There is no backup to restore.", advice="Roll the weights back alone.")
        await self._world.backup.restore(record.learned.backup, record.new)
        return record.learned

    async def _choose(self, record: Record, _: str | None) -> Learned:
        """By bytes, and written down before anything is copied or moved."""
        room = await self._world.replicas.candidate_room(record.model)
        if record.mode is Mode.SIDE_BY_SIDE and not room.fits:
            raise RolloutFault(_no_room(record, room), advice="Ask for `in_place`, or make room.")
        is_beside = record.mode is not Mode.IN_PLACE and room.fits
        return replace(record.learned, room=room, way=Way.SIDE_BY_SIDE if is_beside else Way.IN_PLACE)

    async def _ship(self, record: Record, traceparent: str | None) -> Learned:
        serving = await self._world.replicas.serving(record.model)
        nodes = sorted({one.node for one in serving})
        if not nodes:
            raise RolloutFault(f"No node serves '{record.model}'.", advice="Load the model and start again.")
        shipped = await self._world.ship.ship(record.new, nodes, traceparent=traceparent)
        return replace(record.learned, shipped=shipped)

    async def _prepare(self, record: Record, traceparent: str | None) -> Learned:
        """Also asks the old weights what they say and how they do, to know them again."""
        world = self._world
        serving = await world.replicas.serving(record.model)
        if not serving:
            raise RolloutFault(f"No replica of '{record.model}' serves.", advice="Load the model and start again.")
        await all_of(serving, lambda one: world.replicas.prepare(one, record.new, traceparent=traceparent))
        former = await world.replicas.fingerprint(serving[0], traceparent=traceparent)
        before = await world.judge.traffic(record.model, record.old.version)
        way = record.learned.way or Way.IN_PLACE
        return replace(record.learned, former=former, before=before, way=way)

    async def _stand(self, record: Record, traceparent: str | None) -> Learned:
        world = self._world
        await world.publish.clear_canary(record.model)
        await world.replicas.end_candidate(record.model)  # one of before a crash
        candidate = await world.replicas.stand_beside(record.model, record.new, traceparent=traceparent)
        await check_words(candidate, words_of_new(record), world, traceparent=traceparent)
        accuracy = await world.judge.test_set(record.model, candidate, traceparent=traceparent)
        worse = quality_trigger(record.score, accuracy) or quality_trigger(record.score_before, accuracy)
        if worse is not None:
            raise WorseAnswers(worse)
        await world.publish.canary(record.model, record.new.version, share=self._policy.canary_share)
        return replace(record.learned, canary_accuracy=accuracy)

    async def _switch(self, record: Record, traceparent: str | None) -> Learned:
        done = await switch_all(record, self._world, self._policy, traceparent=traceparent)
        return replace(record.learned, closed_s=done.closed_s, vram_bytes=done.vram_bytes)

    async def _settle(self, record: Record, traceparent: str | None) -> Learned:
        await settle(record, self._world, self._policy, traceparent=traceparent)
        return record.learned

    async def _return(self, record: Record, traceparent: str | None) -> Learned:
        await put_back(record, self._world, self._policy, traceparent=traceparent)
        return record.learned


def _no_room(record: Record, room: Room) -> str:
    free, needed = room.free_bytes / 2**30, room.needed_bytes / 2**30
    return f"No room beside '{record.model}': one more replica needs {needed:.1f} GiB, {free:.1f} GiB are free."


_WORK: Final[Mapping[Effect, Callable[[Effects, Record, str | None], Awaitable[Learned]]]] = {
    Effect.BACK_UP: Effects._back_up,
    Effect.RESTORE: Effects._restore,
    Effect.CHOOSE: Effects._choose,
    Effect.SHIP: Effects._ship,
    Effect.PREPARE: Effects._prepare,
    Effect.STAND: Effects._stand,
    Effect.SWITCH: Effects._switch,
    Effect.SETTLE: Effects._settle,
    Effect.RETURN: Effects._return,
}
