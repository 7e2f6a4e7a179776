"""Claims on the devices of an index: whether one is still needed, what it does to notices, what room it hides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from placement.lease import Lease, LeasePolicy, LeaseRequest, LeaseRoom, LeaseState
from placement.lease_index import Change, Happening, LeaseIndex
from placement.lease_preemption import Claim, plan_claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Claiming:
    """A claim made or kept, the notices that it gives and takes back, and claims that make way for it."""

    claim: Claim
    changes: tuple[Change, ...]
    claims: tuple[tuple[str, Claim | None], ...]


def room_for(index: LeaseIndex, request: LeaseRequest, room: LeaseRoom) -> int:
    """Bytes free for this request: a claim of at least its priority hides what it waits for."""
    free = room.num_bytes - index.leased_bytes(room.device)
    claim = index.claims.get(room.device)
    if claim is None or claim.is_of(request) or claim.priority < request.priority:
        return free
    return free - claim.num_bytes


def claim_for(
    index: LeaseIndex, request: LeaseRequest, rooms: Sequence[LeaseRoom], *, policy: LeasePolicy, now_s: float
) -> Claiming | None:
    """The claim that costs least, or the one the client has already, or None where nothing may be given up."""
    own = next((claim for claim in index.claims.values() if claim.is_of(request)), None)
    fresh = _cheapest(index, request, rooms, policy=policy, now_s=now_s)
    if own is not None and _still_does(index, own, fresh, rooms, policy=policy, now_s=now_s):
        kept = replace(own, asked_s=now_s)
        return Claiming(claim=kept, changes=(), claims=((kept.device, kept),))
    if fresh is None:
        return None
    gone = [claim for claim in (own, index.claims.get(fresh.device)) if claim is not None]
    told = {name for name in fresh.victims if index.held[name].state is LeaseState.HELD}.union(
        *(one.told for one in gone)
    )
    fresh = replace(fresh, told=fresh.victims & told)
    withdrawn = {
        change.lease.lease_id: change
        for claim in gone
        for change in released_notices(index, claim)
        if change.lease.lease_id not in fresh.victims
    }
    dropped = tuple((claim.device, None) for claim in gone if claim.device != fresh.device)
    changes = (*withdrawn.values(), *_notices(index, fresh))
    return Claiming(claim=fresh, changes=changes, claims=(*dropped, (fresh.device, fresh)))


def released_notices(index: LeaseIndex, claim: Claim) -> Iterator[Change]:
    """Victims that are still only noticed, and because of it, hold their leases again, without a deadline."""
    for lease_id in sorted(claim.told):
        lease = index.held.get(lease_id)
        if lease is not None and lease.state is LeaseState.NOTICED:
            yield Change(Happening.NOTICE_WITHDRAWN, without_notice(lease))


def without_notice(lease: Lease) -> Lease:
    return replace(lease, state=LeaseState.HELD, deadline_s=None, reason="")


def _notices(index: LeaseIndex, claim: Claim) -> Iterator[Change]:
    deadlines = {step.name: step.deadline_s for step in claim.steps}  # of a lease's two steps the take comes last
    for lease_id in sorted(claim.victims):
        lease = index.held[lease_id]
        if lease.state is LeaseState.HELD:
            reason = f"a lease of priority {claim.priority} needs the room"
            noticed = replace(lease, state=LeaseState.NOTICED, deadline_s=deadlines[lease_id], reason=reason)
            yield Change(Happening.NOTICED, noticed)


def _cheapest(
    index: LeaseIndex, request: LeaseRequest, rooms: Iterable[LeaseRoom], *, policy: LeasePolicy, now_s: float
) -> Claim | None:
    """Fewest holders disturbed, then their bytes, then fewest models put to sleep."""
    plans = []
    for room in rooms:
        standing = index.claims.get(room.device)
        taken = standing is not None and not standing.is_of(request) and standing.priority >= request.priority
        if taken or not room.is_usable or request.num_bytes > room.num_bytes + _offered(room):
            continue
        free = room.num_bytes - index.leased_bytes(room.device)
        leases = index.on_device(room.device).values()
        plans.append(plan_claim(request, room, leases, free_bytes=free, policy=policy, now_s=now_s))
    return min((plan for plan in plans if plan is not None), key=lambda plan: _price(index, plan), default=None)


def _offered(room: LeaseRoom) -> int:
    return sum(item.num_bytes for item in room.reclaimables)


def _price(index: LeaseIndex, claim: Claim) -> tuple[int, int, int, str]:
    victim_bytes = sum(index.held[lease_id].num_bytes for lease_id in claim.victims)
    return len(claim.victims), victim_bytes, len(claim.steps), claim.device


def _still_does(
    index: LeaseIndex,
    own: Claim,
    fresh: Claim | None,
    rooms: Iterable[LeaseRoom],
    *,
    policy: LeasePolicy,
    now_s: float,
) -> bool:
    """Whether waiting for the claim's own steps still gives enough room, and no other would disturb fewer.

    A claim that waits long past its deadline for a holder who does not let go makes way for any other.
    """
    room = next((room for room in rooms if room.device == own.device and room.is_usable), None)
    if room is None:
        return False
    victims = [index.held[lease_id] for lease_id in own.victims if lease_id in index.held]
    asked = {step.name for step in own.steps}
    coming = sum(lease.num_bytes for lease in victims)
    coming += sum(item.num_bytes for item in room.reclaimables if item.name in asked)
    free = room.num_bytes - index.leased_bytes(room.device)
    enough = free + coming >= own.num_bytes
    if fresh is None or not enough:
        return enough
    return now_s <= own.deadline_s + policy.claim_idle_s and len(fresh.victims) >= len(victims)
