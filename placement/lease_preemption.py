"""Room for a lease of higher priority: what is given up, in which order, and by when.

First caches shrink, then idle models sleep, then holders of lower leases get notice, drain, and lose their lease at a
stated deadline. Never from an equal priority, never before a holder has had its minimum time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from placement.lease import Lease, LeasePolicy, LeaseRequest, LeaseRoom, LeaseState, Reclaimable, ReclaimKind

_MAX_COMBINATIONS = 20_000
"""Above it a victim set is the fewest leases still, but perhaps not the fewest bytes."""


class StepKind(StrEnum):
    SHRINK_CACHE = "shrink_cache"
    SLEEP_MODEL = "sleep_model"
    DRAIN = "drain"
    TAKE = "take"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionStep:
    """`name` is a cache's, a model's or a lease's id. What is not done by `deadline_s` is no longer waited for."""

    kind: StepKind
    name: str
    num_bytes: int
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Room on one device that is being made for one request, and kept for it while its client goes on asking."""

    device: str
    client: str
    model_name: str
    num_bytes: int
    priority: int
    steps: tuple[PreemptionStep, ...]
    asked_s: float
    """When its client asked last."""
    tenant: str
    told: frozenset[str] = frozenset()
    """Victims that have notice because of claims; others have it for another reason, and keep it without this one."""

    @property
    def victims(self) -> frozenset[str]:
        return frozenset(step.name for step in self.steps if step.kind is StepKind.TAKE)

    @property
    def deadline_s(self) -> float:
        return max(step.deadline_s for step in self.steps)

    def is_of(self, request: LeaseRequest) -> bool:
        asked = (request.tenant, request.client, request.model_name, request.num_bytes, request.priority)
        return asked == (self.tenant, self.client, self.model_name, self.num_bytes, self.priority)


def ladder_text(steps: Iterable[PreemptionStep]) -> str:
    """All rungs in their order, those too that have nothing to give."""
    nums = Counter(step.kind for step in steps)
    caches, models, leases = nums[StepKind.SHRINK_CACHE], nums[StepKind.SLEEP_MODEL], nums[StepKind.TAKE]
    return (
        f"{f'{caches} cache(s) shrink' if caches else 'caches have nothing to shrink'}, "
        f"{f'{models} idle model(s) go to sleep' if models else 'no idle model goes to sleep'}, "
        f"{f'{leases} lease(s) are drained and taken' if leases else 'no lease is taken'}"
    )


def smallest_victims(leases: Iterable[Lease], *, short_bytes: int) -> tuple[Lease, ...] | None:
    """Leases that together free `short_bytes`: fewest, then fewest bytes, then lowest priority, then youngest.

    None when all of them do not. With very many leases of many sizes the second rule is kept as far as exchanging
    single leases gets.
    """
    largest = sorted(leases, key=lambda lease: (-lease.num_bytes, *_dearness(lease)))
    sums = list(itertools.accumulate(lease.num_bytes for lease in largest))
    count = next((number for number, total in enumerate(sums, 1) if total >= short_bytes), None)
    if count is None:
        return None
    if math.comb(len(largest), count) > _MAX_COMBINATIONS:
        return _shaved(largest, count, short_bytes)
    sets = itertools.combinations(largest, count)
    return min((some for some in sets if _bytes(some) >= short_bytes), key=_cost)


def _shaved(largest: Sequence[Lease], count: int, short_bytes: int) -> tuple[Lease, ...]:
    """The `count` largest, each in turn exchanged for the smallest that still does."""
    chosen = list(largest[:count])
    for place in range(count):
        need = short_bytes - (_bytes(chosen) - chosen[place].num_bytes)
        taken = {lease.lease_id for lease in chosen} - {chosen[place].lease_id}
        fitting = (lease for lease in largest if lease.num_bytes >= need and lease.lease_id not in taken)
        chosen[place] = min(fitting, key=lambda lease: (lease.num_bytes, *_dearness(lease)))
    return tuple(chosen)


def _dearness(lease: Lease) -> tuple[int, int]:
    return lease.priority, -lease.epoch


def _bytes(leases: Iterable[Lease]) -> int:
    return sum(lease.num_bytes for lease in leases)


def _cost(leases: Sequence[Lease]) -> tuple[int, list[int], list[int]]:
    priorities = sorted((lease.priority for lease in leases), reverse=True)
    return _bytes(leases), priorities, sorted(-lease.epoch for lease in leases)


def plan_claim(
    request: LeaseRequest,
    room: LeaseRoom,
    leases: Iterable[Lease],
    *,
    free_bytes: int,
    policy: LeasePolicy,
    now_s: float,
) -> Claim | None:
    """The least that has to be given up on this device for the request, or None when it cannot be enough.

    A holder that has notice already keeps its deadline.
    """
    short = request.num_bytes - free_bytes
    assert short > 0, f"{request.num_bytes} bytes fit on {room.device} as it is"
    given = _given_up(request, room.reclaimables, short)
    short -= sum(item.num_bytes for item in given)
    victims = (
        smallest_victims(_preemptible(leases, request.priority, policy, now_s), short_bytes=short) if short > 0 else ()
    )
    if victims is None:
        return None
    return Claim(
        device=room.device,
        client=request.client,
        tenant=request.tenant,
        model_name=request.model_name,
        num_bytes=request.num_bytes,
        priority=request.priority,
        steps=(*_reclaim_steps(given, policy, now_s), *_lease_steps(victims, policy, now_s)),
        asked_s=now_s,
    )


def _given_up(request: LeaseRequest, items: Iterable[Reclaimable], short_bytes: int) -> list[Reclaimable]:
    """Caches before idle models, of each the lowest priority first and then the largest, until it is enough."""
    order = list(ReclaimKind)
    may = [item for item in items if item.kind is ReclaimKind.CACHE or item.priority < request.priority]
    may.sort(key=lambda item: (order.index(item.kind), item.priority, -item.num_bytes, item.name))
    given: list[Reclaimable] = []
    for item in may:
        if short_bytes <= 0:
            break
        given.append(item)
        short_bytes -= item.num_bytes
    return given


def _preemptible(leases: Iterable[Lease], priority: int, policy: LeasePolicy, now_s: float) -> list[Lease]:
    return [
        lease
        for lease in leases
        if lease.priority < priority
        and lease.state in (LeaseState.HELD, LeaseState.NOTICED)
        and lease.acquired_s + policy.min_hold_s <= now_s
    ]


def _reclaim_steps(given: Iterable[Reclaimable], policy: LeasePolicy, now_s: float) -> list[PreemptionStep]:
    by_kind = {
        ReclaimKind.CACHE: (StepKind.SHRINK_CACHE, now_s + policy.shrink_s),
        ReclaimKind.IDLE_MODEL: (StepKind.SLEEP_MODEL, now_s + policy.shrink_s + policy.sleep_s),
    }
    return [
        PreemptionStep(
            kind=by_kind[item.kind][0], name=item.name, num_bytes=item.num_bytes, deadline_s=by_kind[item.kind][1]
        )
        for item in given
    ]


def _lease_steps(victims: Iterable[Lease], policy: LeasePolicy, now_s: float) -> list[PreemptionStep]:
    """All drains, then all takes. One date each: from notice to drain, and the deadline the holder is told."""
    drains, takes = [], []
    notice_s = max(policy.notice_s, policy.shrink_s + policy.sleep_s)
    for lease in victims:
        deadline_s = lease.deadline_s if lease.deadline_s is not None else now_s + notice_s + policy.grace_s
        drain_s = max(now_s, deadline_s - policy.grace_s)
        drains.append(_lease_step(StepKind.DRAIN, lease, drain_s))
        takes.append(_lease_step(StepKind.TAKE, lease, deadline_s))
    return drains + takes


def _lease_step(kind: StepKind, lease: Lease, deadline_s: float) -> PreemptionStep:
    return PreemptionStep(kind=kind, name=lease.lease_id, num_bytes=lease.num_bytes, deadline_s=deadline_s)
