"""What time, measurements and restarts do to leases.

One law above all: a share is given to nobody else while its holder may still believe that it holds it, nor while its
bytes are still on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from placement.lease import Lease, LeasePolicy, LeaseState
from placement.lease_claims import released_notices, without_notice
from placement.lease_index import Change, Happening, LeaseIndex
from placement.lease_preemption import smallest_victims
from placement.lease_rules import Decision, ended_or_lingering


def sweep(index: LeaseIndex, *, policy: LeasePolicy, now_s: float) -> Decision[None]:
    """Ends what is over, takes what was noticed, drops claims nobody asks for any more, forgets old answers."""
    idle = [claim for claim in index.claims.values() if now_s > claim.asked_s + policy.claim_idle_s]
    withdrawn = {change.lease.lease_id: change for claim in idle for change in released_notices(index, claim)}
    changes = [_due_change(index, lease, withdrawn, now_s=now_s) for lease in index.due(now_s)]
    due = {change.lease.lease_id for change in changes}
    rest = (change for lease_id, change in withdrawn.items() if lease_id not in due)
    return Decision(
        answer=None,
        changes=(*changes, *rest, *_forgotten(index, policy, now_s)),
        claims=tuple((claim.device, None) for claim in idle),
    )


def _due_change(index: LeaseIndex, lease: Lease, withdrawn: Mapping[str, Change], *, now_s: float) -> Change:
    if now_s < lease.expires_s:
        # Its deadline has come, and nothing says that the holder knows of it.
        return withdrawn.get(lease.lease_id) or Change(Happening.REVOKED, replace(lease, state=LeaseState.REVOKED))
    kind = Happening.EXPIRED if lease.state is LeaseState.HELD else Happening.TAKEN
    return ended_or_lingering(index, lease, kind, now_s=now_s)


def _forgotten(index: LeaseIndex, policy: LeasePolicy, now_s: float) -> Iterator[Change]:
    surplus = len(index.remembered) - policy.max_remembered
    for place, lease in enumerate(index.remembered.values()):
        assert lease.ended_s is not None, f"{lease.lease_id} is remembered but has not ended"
        if place >= surplus and now_s < lease.ended_s + policy.remember_s:
            break
        yield Change(Happening.FORGOTTEN, lease)


def measure(
    index: LeaseIndex, measured_bytes: Mapping[str, int], *, policy: LeasePolicy, now_s: float
) -> Decision[None]:
    """What holders' processes have on the device, by lease id: 0 where a lease has none, absent where nobody looked.

    A holder outside its bytes is warned, and loses its lease if it stays there. A lease whose time is over ends with
    its last byte.
    """
    known = {lease_id: num for lease_id, num in measured_bytes.items() if lease_id in index.held}
    found = (_measured(index.held[lease_id], num, policy, now_s) for lease_id, num in known.items())
    changes = tuple(change for change in found if change is not None)
    return Decision(answer=None, changes=changes, measured_bytes=tuple(known.items()))


def without_holder(index: LeaseIndex, lease_id: str, *, now_s: float) -> Decision[Lease | None]:
    """Ends a revoked lease before its time, because its holder is known to be dead. None where there is no such."""
    lease = index.held.get(lease_id)
    if lease is None or lease.state is not LeaseState.REVOKED:
        return Decision(answer=None)
    ended = replace(lease, ended_s=now_s)
    return Decision(answer=ended, changes=(Change(Happening.TAKEN, ended),))


def vacate(
    index: LeaseIndex, device: str, *, num_bytes: int | None, reason: str, policy: LeasePolicy, now_s: float
) -> Decision[tuple[Lease, ...]]:
    """Notice to holders on a device that fails or is needed for the cluster itself, whatever their priority.

    `num_bytes` of room are to come free, all of it when None. Leases that have notice already count and are not told
    twice. Nobody withdraws these notices but a restart or `readmit`.
    """
    leases = [lease for lease in index.on_device(device).values() if lease.state is not LeaseState.REVOKED]
    coming = sum(lease.num_bytes for lease in leases if lease.state is LeaseState.NOTICED)
    rest = [lease for lease in leases if lease.state is not LeaseState.NOTICED]
    short = sum(lease.num_bytes for lease in rest) if num_bytes is None else num_bytes - coming
    chosen = (smallest_victims(rest, short_bytes=short) or tuple(rest)) if short > 0 else ()
    deadline_s = now_s + policy.notice_s + policy.grace_s
    noticed = tuple(replace(lease, state=LeaseState.NOTICED, deadline_s=deadline_s, reason=reason) for lease in chosen)
    return Decision(answer=noticed, changes=tuple(Change(Happening.NOTICED, lease) for lease in noticed))


def readmit(index: LeaseIndex, device: str) -> Decision[None]:
    """Withdraws the notices on a device that nobody claims: it is well again, or the room is not needed."""
    claim = index.claims.get(device)
    wanted = claim.told if claim is not None else frozenset()
    leases = index.on_device(device).values()
    freed = [lease for lease in leases if lease.state is LeaseState.NOTICED and lease.lease_id not in wanted]
    return Decision(
        answer=None, changes=tuple(Change(Happening.NOTICE_WITHDRAWN, without_notice(one)) for one in freed)
    )


def _measured(lease: Lease, num_bytes: int, policy: LeasePolicy, now_s: float) -> Change | None:
    if lease.state is LeaseState.REVOKED:
        over = num_bytes == 0 and lease.expires_s == math.inf
        return Change(Happening.TAKEN, replace(lease, ended_s=now_s)) if over else None
    if num_bytes <= lease.num_bytes:
        return (
            Change(Happening.BACK_INSIDE, replace(lease, over_since_s=None)) if lease.over_since_s is not None else None
        )
    if lease.over_since_s is None:
        return Change(Happening.WARNED, replace(lease, over_since_s=now_s))
    if now_s < lease.over_since_s + policy.overuse_s:
        return None
    reason = f"its holder had {num_bytes} bytes of {lease.num_bytes} for {now_s - lease.over_since_s:.0f} s"
    return Change(Happening.REVOKED, replace(lease, state=LeaseState.REVOKED, reason=reason))


def restored(
    leases: Iterable[Lease], *, policy: LeasePolicy, now_s: float, shift_s: float = 0.0, knows_downtime: bool = True
) -> list[Lease]:
    """Leases as a new process takes them over. No claim outlives its process, so notices are withdrawn.

    `shift_s` brings times of another clock onto this one: from a moment in which they were in force to now. Nobody
    knows then how long ago that was, so a lease must be renewed within a grace; and since its holder may know nothing
    of that, its room is kept for all the time that it had left.
    """
    return [_restored(lease, shift_s, None if knows_downtime else now_s + policy.restart_grace_s) for lease in leases]


def _restored(lease: Lease, shift_s: float, confirm_by_s: float | None) -> Lease:
    moved = replace(
        lease,
        acquired_s=lease.acquired_s + shift_s,
        expires_s=lease.expires_s + shift_s,
        deadline_s=lease.deadline_s + shift_s if lease.deadline_s is not None else None,
        ended_s=lease.ended_s + shift_s if lease.ended_s is not None else None,
        over_since_s=None,
    )
    if moved.ended_s is not None or moved.state is LeaseState.REVOKED:
        return moved
    if moved.state is LeaseState.NOTICED:
        moved = without_notice(moved)
    if confirm_by_s is None:
        return moved
    reason = "the lease server's machine was restarted: renew to keep it"
    return replace(moved, state=LeaseState.UNCONFIRMED, deadline_s=confirm_by_s, reason=reason)
