"""A lease: a share of one device held by a program outside the cluster's own models, for a time.

Values only; what may become of them is in `lease_rules`. Times ending in `_s` are seconds on one clock that never
goes back and never stands still (the shell's choice); `_unix_s` is wall time and only ever shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from placement.feasible import limit_bytes

MB = 10**6
"""Of `vram_estimate_mb`: the same MB that sizes in cluster.yaml are written in."""
LEASED_PERCENT = 90
"""Of what headroom leaves of a device. Source: spec row A9."""
DEFAULT_TTL_S = 30.0
MAX_TTL_S = 86_400.0
RETRY_AFTER_MS = 250
LOCAL_TENANT = "local"
"""Of all who ask while there are no keys, and of keys that are bound to no tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """What a client asks for. A `key` makes the request safe to send twice; None: each sending is a new request.

    A `client` is known within its tenant only: the same name under another tenant is somebody else.
    """

    client: str
    model_name: str
    num_bytes: int
    priority: int = 0
    ttl_s: float = DEFAULT_TTL_S
    key: str | None = None
    tenant: str = LOCAL_TENANT


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Who renews or releases what. `epoch` is the one the grant told; `tenant` None may touch those of all tenants."""

    client: str
    lease_id: str
    epoch: int
    acknowledges_notice: bool = False
    """The holder has read the deadline of its notice and stops by then."""
    tenant: str | None = LOCAL_TENANT

    def may_see(self, lease: Lease) -> bool:
        return self.tenant in (None, lease.tenant)


class LeaseState(StrEnum):
    HELD = "held"
    NOTICED = "noticed"
    """Told to stop by `deadline_s`, for a claim of higher priority."""
    UNCONFIRMED = "unconfirmed"
    """Taken over after a restart of unknown length: renewed by `deadline_s`, or revoked."""
    REVOKED = "revoked"
    """Refused everywhere; its room stays taken until its holder can no longer believe in it and its bytes are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One share and its holder. Epochs rise with every grant and are never given twice."""

    lease_id: str
    epoch: int
    client: str
    model_name: str
    num_bytes: int
    priority: int
    ttl_s: float
    device: str
    """UUID."""
    node: str
    acquired_s: float
    expires_s: float
    """Until then the holder may believe that it holds the share; before then the share is given to nobody else.

    Infinite once the holder's time is over and only its bytes are still there.
    """
    acquired_unix_s: float
    key: str | None = None
    tenant: str = LOCAL_TENANT
    state: LeaseState = LeaseState.HELD
    deadline_s: float | None = None
    """When it is revoked unless something happens before. None where nothing threatens it."""
    reason: str = ""
    """Why it is not simply held."""
    over_since_s: float | None = None
    """Since when its holder has more bytes than `num_bytes`. None while it stays inside."""
    ended_s: float | None = None
    """When it ended; such a lease holds nothing and is kept so that a repeated request gets the same answer."""

    @property
    def due_s(self) -> float:
        """When something happens to it by itself: a notice takes effect or its time is over."""
        if self.state is LeaseState.REVOKED or self.deadline_s is None:
            return self.expires_s
        return min(self.deadline_s, self.expires_s)


class ReclaimKind(StrEnum):
    """What the cluster itself can give up, in the order in which it does."""

    CACHE = "cache"
    """Shrinks and loses nothing but speed, whatever its priority."""
    IDLE_MODEL = "idle_model"
    """Sleeps, if its priority is lower than the asking one, and wakes on demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaimable:
    """Bytes on a device that are not leased and can be had back. What "idle" means is the offerer's affair."""

    name: str
    num_bytes: int
    kind: ReclaimKind
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRoom:
    """What may be leased on one device, all leases there together.

    `num_bytes` after all that is planned or foreign there, `most_bytes` were the device empty (`lease_room_bytes`).
    An unusable device (cordoned, quarantined) keeps its leases and takes no new ones.
    """

    device: str
    node: str
    num_bytes: int
    most_bytes: int
    is_usable: bool = True
    reclaimables: tuple[Reclaimable, ...] = ()


def lease_room_bytes(*, total_bytes: int, headroom: float, taken_bytes: int = 0) -> int:
    """Bytes for leases on a device: 90 % of what `headroom` and `taken_bytes` leave, rounded down, never negative.

    `taken_bytes` is all that is planned or foreign there. A device kept for leases alone has a headroom of 0.
    """
    return max(0, limit_bytes(total_bytes, headroom) - taken_bytes) * LEASED_PERCENT // 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePolicy:
    """How patient the rules are, and the limits. Durations in seconds."""

    max_ttl_s: float = MAX_TTL_S
    max_leases: int = 20_000
    min_hold_s: float = 10.0
    """No lease is taken from its holder before it has had it this long."""
    shrink_s: float = 1.0
    """What caches have to shrink."""
    sleep_s: float = 5.0
    """What idle models have to sleep, after that."""
    notice_s: float = 6.0
    """From the notice on, the holder begins nothing new. At least until idle models sleep."""
    grace_s: float = 24.0
    """After the notice: the holder drains; then its lease is taken."""
    claim_idle_s: float = 5.0
    """A claim whose client does not ask again for this long is dropped, and its notices with it."""
    overuse_s: float = 10.0
    """How long a holder may have more bytes than its lease after the warning."""
    restart_grace_s: float = 30.0
    """In which a lease must be renewed after a restart of unknown length."""
    remember_s: float = 600.0
    """How long an ended lease with a key answers a repeated request, beyond its time to live."""
    max_remembered: int = 10_000


class LeaseRefusalReason(StrEnum):
    BAD_NAME = "bad_name"
    BAD_SIZE = "bad_size"
    BAD_PRIORITY = "bad_priority"
    BAD_TTL = "bad_ttl"
    TOO_LARGE = "too_large"
    """More than any device could ever lease: waiting does not help."""
    NO_ROOM = "no_room"
    PREEMPTING = "preempting"
    """Room is being made: ask again and it will be there."""
    TOO_MANY_LEASES = "too_many_leases"
    KEY_REUSED = "key_reused"
    UNKNOWN_LEASE = "unknown_lease"
    NOT_YOURS = "not_yours"
    STALE_EPOCH = "stale_epoch"
    REVOKED = "revoked"
    SHARE_UNAVAILABLE = "share_unavailable"
    """The device's pooled share could not grow."""
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    """The lease could not be written down, so it was not given."""


WAITING_HELPS = frozenset(
    {
        LeaseRefusalReason.NO_ROOM,
        LeaseRefusalReason.PREEMPTING,
        LeaseRefusalReason.TOO_MANY_LEASES,
        LeaseRefusalReason.SHARE_UNAVAILABLE,
        LeaseRefusalReason.LEDGER_UNAVAILABLE,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRefusal:
    """`message` says what happened, what was expected, what to do. `field` is the one at fault, or None."""

    reason: LeaseRefusalReason
    message: str
    field: str | None = None

    @property
    def retry_after_ms(self) -> int | None:
        """None where asking again cannot help."""
        return RETRY_AFTER_MS if self.reason in WAITING_HELPS else None
