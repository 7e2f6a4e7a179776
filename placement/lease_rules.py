"""What follows from each thing that can happen to leases: asked for, renewed, given back.

Every rule reads the index and returns a `Decision`; nothing is changed until the shell has written the decision down
and applies it. What time does to leases stands in `lease_time`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from placement.lease import (
    MB,
    Hold,
    Lease,
    LeasePolicy,
    LeaseRefusal,
    LeaseRefusalReason,
    LeaseRequest,
    LeaseRoom,
    LeaseState,
)
from placement.lease_claims import claim_for, released_notices, room_for
from placement.lease_faults import fault_of
from placement.lease_index import Change, Happening, LeaseIndex
from placement.lease_preemption import Claim, ladder_text

A = TypeVar("A", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[A]):
    """`claims` by device; None drops the claim there. Claims are not written down: a restart forgets them."""

    answer: A
    changes: tuple[Change, ...] = ()
    claims: tuple[tuple[str, Claim | None], ...] = ()
    measured_bytes: tuple[tuple[str, int], ...] = ()
    """By lease id. Not written down either."""

    def apply_to(self, index: LeaseIndex) -> None:
        index.measured_bytes.update(self.measured_bytes)
        index.apply(self.changes)
        for device, claim in self.claims:
            if claim is None:
                index.claims.pop(device, None)
            else:
                index.claims[device] = claim


def acquire(
    index: LeaseIndex,
    request: LeaseRequest,
    rooms: Sequence[LeaseRoom],
    *,
    policy: LeasePolicy,
    now_s: float,
    now_unix_s: float,
) -> Decision[Lease | LeaseRefusal]:
    """A share on the device that it fills best, or why not.

    A request whose key was granted before gets the same lease again, ended or not, and takes nothing.
    """
    fault = fault_of(request, policy)
    if fault is not None:
        return Decision(answer=fault)
    known = index.by_key(request.tenant, request.client, request.key) if request.key is not None else None
    if known is not None:
        return Decision(answer=_again(known, request))
    fault = _size_refusal(request, rooms) or _count_refusal(index, policy)
    if fault is not None:
        return Decision(answer=fault)
    seats = [room for room in rooms if room.is_usable and room_for(index, request, room) >= request.num_bytes]
    if not seats:
        return _no_room(index, request, rooms, policy=policy, now_s=now_s)
    seat = min(seats, key=lambda room: (room_for(index, request, room), room.device))
    lease = Lease(
        lease_id=f"lease-{index.next_epoch}",
        epoch=index.next_epoch,
        client=request.client,
        model_name=request.model_name,
        num_bytes=request.num_bytes,
        priority=request.priority,
        ttl_s=request.ttl_s,
        device=seat.device,
        node=seat.node,
        acquired_s=now_s,
        expires_s=now_s + request.ttl_s,
        acquired_unix_s=now_unix_s,
        key=request.key,
        tenant=request.tenant,
    )
    own = [claim for claim in index.claims.values() if claim.is_of(request)]
    withdrawn = [change for claim in own for change in released_notices(index, claim)]
    return Decision(
        answer=lease,
        changes=(Change(Happening.GRANTED, lease), *withdrawn),
        claims=tuple((claim.device, None) for claim in own),
    )


def renew(index: LeaseIndex, hold: Hold, *, now_s: float) -> Decision[Lease | LeaseRefusal]:
    """The whole time to live again, from now.

    Under notice a lease lives no longer than its deadline, and its holder may believe in less only once it has said
    that it knows the deadline: an answer that told it may have been lost.
    """
    lease = held_by(index, hold, now_s=now_s)
    if isinstance(lease, LeaseRefusal):
        return Decision(answer=lease)
    expires_s = now_s + lease.ttl_s
    if lease.state is LeaseState.UNCONFIRMED:
        lease = replace(lease, state=LeaseState.HELD, deadline_s=None, reason="")
    elif lease.deadline_s is not None:
        capped_s = min(expires_s, lease.deadline_s)
        expires_s = capped_s if hold.acknowledges_notice else max(lease.expires_s, capped_s)
    renewed = replace(lease, expires_s=expires_s)
    return Decision(answer=renewed, changes=(Change(Happening.RENEWED, renewed),))


def release(index: LeaseIndex, hold: Hold, *, now_s: float) -> Decision[Lease | LeaseRefusal]:
    """Ends the lease. Its room waits for bytes that were last seen there; a revoked lease can still be given back."""
    ended = index.remembered.get(hold.lease_id)
    if ended is not None and hold.may_see(ended) and (ended.client, ended.epoch) == (hold.client, hold.epoch):
        return Decision(answer=ended)
    lease = held_by(index, hold, now_s=now_s, may_be_revoked=True)
    if isinstance(lease, LeaseRefusal):
        return Decision(answer=lease)
    change = ended_or_lingering(index, lease, Happening.RELEASED, now_s=now_s)
    return Decision(answer=change.lease, changes=(change,))


def held_by(index: LeaseIndex, hold: Hold, *, now_s: float, may_be_revoked: bool = False) -> Lease | LeaseRefusal:
    """The lease, if `hold` is its holder's and it is in force. One of another tenant is as one that never was."""
    lease = index.held.get(hold.lease_id)
    if lease is None or not hold.may_see(lease) or (now_s >= lease.expires_s and lease.state is not LeaseState.REVOKED):
        message = f"There is no lease '{hold.lease_id[:64]}': it has ended or never was. Acquire a new one."
        return LeaseRefusal(reason=LeaseRefusalReason.UNKNOWN_LEASE, message=message, field="lease_id")
    if lease.client != hold.client:
        message = f"'{lease.lease_id}' belongs to another client. Send the `client` that acquired it."
        return LeaseRefusal(reason=LeaseRefusalReason.NOT_YOURS, message=message, field="client")
    if lease.epoch != hold.epoch:
        message = f"'{lease.lease_id}' has epoch {lease.epoch}, not {hold.epoch}. Send the epoch its grant told."
        return LeaseRefusal(reason=LeaseRefusalReason.STALE_EPOCH, message=message, field="epoch")
    if lease.state is LeaseState.REVOKED and not may_be_revoked:
        message = f"'{lease.lease_id}' was revoked: {lease.reason}. Stop using its memory, then acquire a new one."
        return LeaseRefusal(reason=LeaseRefusalReason.REVOKED, message=message, field="lease_id")
    return lease


def ended_or_lingering(index: LeaseIndex, lease: Lease, kind: Happening, *, now_s: float) -> Change:
    """The end of a lease; if its bytes were still seen it is revoked instead and keeps its room until they are gone."""
    if index.measured_bytes.get(lease.lease_id, 0) == 0:
        return Change(kind, replace(lease, ended_s=now_s))
    word = "given back" if kind is Happening.RELEASED else "over"
    reason = f"it is {word}, but its holder's bytes are still on the device"
    lingering = replace(lease, state=LeaseState.REVOKED, expires_s=math.inf, deadline_s=None, reason=reason)
    return Change(Happening.REVOKED, lingering)


def _again(known: Lease, request: LeaseRequest) -> Lease | LeaseRefusal:
    asked = (request.model_name, request.num_bytes, request.priority, request.ttl_s)
    if asked == (known.model_name, known.num_bytes, known.priority, known.ttl_s):
        return known
    message = "This `idempotency_key` was used for another request. Send a new key with a new request."
    return LeaseRefusal(reason=LeaseRefusalReason.KEY_REUSED, message=message, field="idempotency_key")


def _size_refusal(request: LeaseRequest, rooms: Iterable[LeaseRoom]) -> LeaseRefusal | None:
    """None also while no device is known: that may change."""
    most = max((room.most_bytes for room in rooms), default=None)
    if most is None or request.num_bytes <= most:
        return None
    message = (
        f"No device here can ever lease {_mb(request.num_bytes)}: the most is {_mb(most)}, "
        "what headroom leaves of the largest one, less a tenth. Ask for less."
    )
    return LeaseRefusal(reason=LeaseRefusalReason.TOO_LARGE, message=message, field="vram_estimate_mb")


def _count_refusal(index: LeaseIndex, policy: LeasePolicy) -> LeaseRefusal | None:
    if len(index.held) < policy.max_leases:
        return None
    message = f"{policy.max_leases} leases are held, the most there may be. Release one, or try again later."
    return LeaseRefusal(reason=LeaseRefusalReason.TOO_MANY_LEASES, message=message)


def _no_room(
    index: LeaseIndex, request: LeaseRequest, rooms: Sequence[LeaseRoom], *, policy: LeasePolicy, now_s: float
) -> Decision[Lease | LeaseRefusal]:
    """A claim if lower leases, caches or idle models can make room, or how much is there."""
    claiming = claim_for(index, request, rooms, policy=policy, now_s=now_s)
    if claiming is not None:
        in_s = claiming.claim.deadline_s - now_s
        when = f"within {in_s:.0f} s" if in_s > 0 else "once a holder lets go that does not answer"
        how = ladder_text(claiming.claim.steps)
        message = f"Room is being made and will be there {when}: {how}. Ask again until then."
        refusal = LeaseRefusal(reason=LeaseRefusalReason.PREEMPTING, message=message)
        return Decision(answer=refusal, changes=claiming.changes, claims=claiming.claims)
    best = max((room_for(index, request, room) for room in rooms if room.is_usable), default=0)
    message = (
        f"No device has {_mb(request.num_bytes)} to lease now; the best has {_mb(max(0, best))} left. "
        "Ask again, for less, or with a higher priority."
    )
    return Decision(answer=LeaseRefusal(reason=LeaseRefusalReason.NO_ROOM, message=message))


def _mb(num_bytes: int) -> str:
    return f"{num_bytes // MB:,} MB"
