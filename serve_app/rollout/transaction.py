"""The switch of weights on all replicas or on none, and the way back. Knows no stages and writes no record.

Order of a switch: close every gate, other weights, what they say to fixed prompts, commit, open. Whatever fails
before the commit leaves gates closed, never a mixture that answers; `put_back` then brings the old weights back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from serve_app.engines.fingerprint import Fingerprint, difference
from serve_app.errors import HeadroomError
from serve_app.rollout.record import Record, Weights
from serve_app.rollout.stages import RolloutPolicy
from serve_app.rollout.world import Loaded, Replica, World

T = TypeVar("T")


class RolloutFault(HeadroomError):
    """The world did not do what the rollout needs of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """`closed_s` from the first gate asked to close to the last one opened; `vram_bytes` of all replicas together."""

    closed_s: float
    vram_bytes: int | None


async def switch_all(record: Record, world: World, policy: RolloutPolicy, *, traceparent: str | None) -> Switched:
    """Raises: whatever a replica raised, RolloutFault for what it said, TimeoutError; gates may be closed then."""
    serving = await world.replicas.serving(record.model)
    if not serving:
        raise RolloutFault(f"No replica of '{record.model}' serves.", advice="Load the model and start again.")
    began_s = world.clock.monotonic_s()
    async with asyncio.timeout(policy.closed_s):
        loaded = await _changed(record, serving, world, policy, traceparent)
        await _nobody_came(record.model, serving, world)
        await world.publish.commit(record.model, record.new, words=words_of_new(record))
    await all_of(serving, lambda replica: world.replicas.open(replica, traceparent=traceparent))
    known = [one.vram_bytes for one in loaded if one.vram_bytes is not None]
    vram_bytes = sum(known) if len(known) == len(loaded) else None
    return Switched(closed_s=world.clock.monotonic_s() - began_s, vram_bytes=vram_bytes)


async def settle(record: Record, world: World, policy: RolloutPolicy, *, traceparent: str | None) -> None:
    """After the commit, again after a crash: links follow, every replica has the committed weights, every gate is open.

    One with others, as when it started while the switch was under way, is told to die: it comes back with the right.
    """
    await world.publish.commit(record.model, record.new, words=words_of_new(record))
    await _end_canary(record.model, world)
    await _open_or_end(record.model, record.new, world, policy, traceparent)


async def put_back(record: Record, world: World, policy: RolloutPolicy, *, traceparent: str | None) -> None:
    """The old weights on every replica, committed, gates open, no candidate. May be called from any state.

    A replica that cannot go back in `policy.back_s`, or says something else than before, is told to die.
    """
    await _end_canary(record.model, world)
    is_committed = await world.publish.committed(record.model) == record.old.version
    serving = await world.replicas.serving(record.model)
    wrong = [one for one in serving if not is_committed or one.weights != record.old.version]
    lost = await _faults(wrong, lambda one: _back(one, record, world, policy, traceparent), policy.back_s)
    await world.publish.commit(record.model, record.old, words=record.learned.former)
    await all_of(lost, lambda one: world.replicas.die(one, reason=lost[one]))
    await _open_or_end(record.model, record.old, world, policy, traceparent)


async def check_words(replica: Replica, expected: Fingerprint | None, world: World, *, traceparent: str | None) -> None:
    """Raises: RolloutFault where the replica says something else. `expected` None: it must only answer."""
    found = await world.replicas.fingerprint(replica, traceparent=traceparent)
    apart = difference(expected, found) if expected is not None else ""
    if apart:
        raise RolloutFault(f"{replica.name} does not answer with the weights it should have: {apart}")


def words_of_new(record: Record) -> Fingerprint | None:
    """What the new weights must say; those that serve already say what they said before."""
    is_same = record.new.version == record.old.version
    return record.expected or (record.learned.former if is_same else None)


async def all_of(items: Iterable[Replica], work: Callable[[Replica], Awaitable[T]]) -> list[T]:
    """All at once; waits for every one, then raises the first fault: nothing goes on behind the back of a return."""
    results = await asyncio.gather(*(work(item) for item in items), return_exceptions=True)
    faults = [result for result in results if isinstance(result, BaseException)]
    if faults:
        raise faults[0]
    return [result for result in results if not isinstance(result, BaseException)]


async def _changed(
    record: Record, serving: Sequence[Replica], world: World, policy: RolloutPolicy, traceparent: str | None
) -> list[Loaded]:
    replicas = world.replicas
    await all_of(serving, lambda one: replicas.close(one, deadline_s=policy.drain_s, traceparent=traceparent))
    loaded = await all_of(serving, lambda one: replicas.switch(one, record.new, traceparent=traceparent))
    expected = words_of_new(record)
    await all_of(serving, lambda one: check_words(one, expected, world, traceparent=traceparent))
    return loaded


async def _nobody_came(model: str, closed: Sequence[Replica], world: World) -> None:
    """A replica that began to serve meanwhile has the old weights and an open gate."""
    come = {one.name for one in await world.replicas.serving(model)} - {one.name for one in closed}
    if come:
        raise RolloutFault(f"{', '.join(sorted(come))} began to serve during the switch.", advice="Start again.")


async def _end_canary(model: str, world: World) -> None:
    """First no more traffic for it, then it."""
    await world.publish.clear_canary(model)
    await world.replicas.end_candidate(model)


async def _back(replica: Replica, record: Record, world: World, policy: RolloutPolicy, traceparent: str | None) -> None:
    await world.replicas.close(replica, deadline_s=policy.drain_s, traceparent=traceparent)
    await world.replicas.switch(replica, record.old, traceparent=traceparent)
    await check_words(replica, record.learned.former, world, traceparent=traceparent)


async def _open_or_end(
    model: str, weights: Weights, world: World, policy: RolloutPolicy, traceparent: str | None
) -> None:
    serving = await world.replicas.serving(model)
    strays = {
        one: f"It does not have the weights {weights.version}." for one in serving if one.weights != weights.version
    }
    right = [one for one in serving if one not in strays]
    shut = await _faults(right, lambda one: world.replicas.open(one, traceparent=traceparent), policy.back_s)
    ended = strays | shut
    await all_of(ended, lambda one: world.replicas.die(one, reason=ended[one]))


async def _faults(
    items: Sequence[Replica], work: Callable[[Replica], Awaitable[None]], limit_s: float
) -> dict[Replica, str]:
    """Those where the work failed or took longer than `limit_s`, with the reason."""

    async def told(item: Replica) -> str | None:
        try:
            async with asyncio.timeout(limit_s):
                await work(item)
        except Exception as error:  # noqa: BLE001  # of any kind: it cannot be relied on
            return fault_of(error)
        return None

    reasons = await all_of(items, told)
    return {item: reason for item, reason in zip(items, reasons, strict=True) if reason is not None}


def fault_of(error: BaseException) -> str:
    """A sentence for the record."""
    if isinstance(error, HeadroomError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "It was not done in time."
    return f"{type(error).__name__}: {error}"
