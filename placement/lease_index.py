"""The leases of all devices in memory: by id, by device, by key, by when something is due.

Holds what was decided and decides nothing. Every step costs O(log n) in the number of leases at most.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from placement.lease import Lease
from placement.lease_preemption import Claim

_MIN_COMPACTED = 64


class Happening(StrEnum):
    GRANTED = "granted"
    RENEWED = "renewed"
    RELEASED = "released"
    EXPIRED = "expired"
    NOTICED = "noticed"
    NOTICE_WITHDRAWN = "notice_withdrawn"
    WARNED = "warned"
    """Its holder has more bytes than it leased."""
    BACK_INSIDE = "back_inside"
    REVOKED = "revoked"
    TAKEN = "taken"
    """Its room is free again after a revocation or a notice."""
    FORGOTTEN = "forgotten"
    """Ended long ago; repeated requests are no longer recognised."""


ENDS = frozenset({Happening.RELEASED, Happening.EXPIRED, Happening.TAKEN})


@dataclass(frozen=True, slots=True)
class Change:
    """`lease` as it is afterwards. The shell writes it down before it is applied and told."""

    kind: Happening
    lease: Lease

    @property
    def ends(self) -> bool:
        return self.kind in ENDS

    @property
    def is_kept(self) -> bool:
        """Whether a ledger keeps a row of it."""
        return self.kind is not Happening.FORGOTTEN and not (self.ends and self.lease.key is None)


class LeaseIndex:
    """`held` is ordered by epoch. `claims` hold the room that is being made, one per device."""

    def __init__(self, leases: Iterable[Lease] = (), *, next_epoch: int = 1) -> None:
        self.held: dict[str, Lease] = {}
        self.remembered: dict[str, Lease] = {}
        """Ended leases with a key, the one that ended first in front."""
        self.claims: dict[str, Claim] = {}
        self.measured_bytes: dict[str, int] = {}
        """By lease id, as last told; a lease nobody measured is not in it."""
        self.next_epoch = next_epoch
        self._on_device: dict[str, dict[str, Lease]] = {}
        self._leased_bytes: dict[str, int] = {}
        self._by_key: dict[tuple[str, str, str], Lease] = {}
        self._due: list[tuple[float, str]] = []
        for lease in sorted(leases, key=lambda lease: lease.epoch):
            self._keep(lease)

    def leased_bytes(self, device: str) -> int:
        return self._leased_bytes.get(device, 0)

    def on_device(self, device: str) -> Mapping[str, Lease]:
        return self._on_device.get(device, {})

    def by_key(self, tenant: str, client: str, key: str) -> Lease | None:
        """The lease this request was once granted, ended or not."""
        return self._by_key.get((tenant, client, key))

    def due(self, now_s: float) -> list[Lease]:
        """Leases to which something has happened by `now_s`, each once. Forgets entries that renewals left behind."""
        seen: dict[str, Lease] = {}
        while self._due and self._due[0][0] <= now_s:
            due_s, lease_id = heapq.heappop(self._due)
            lease = self.held.get(lease_id)
            if lease is not None and lease.due_s == due_s:
                seen[lease_id] = lease
        for lease in seen.values():  # until the change is applied it stays due
            heapq.heappush(self._due, (lease.due_s, lease.lease_id))
        return list(seen.values())

    def next_due_s(self) -> float | None:
        return self._due[0][0] if self._due else None

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.kind is Happening.FORGOTTEN:
                self._forget(change.lease)
            elif change.ends:
                self._end(change.lease)
            else:
                self._keep(change.lease)

    def _keep(self, lease: Lease) -> None:
        if lease.ended_s is not None:
            self._remember(lease)
            return
        before = self.held.get(lease.lease_id)
        self.held[lease.lease_id] = lease
        self._on_device.setdefault(lease.device, {})[lease.lease_id] = lease
        if before is None:
            self._leased_bytes[lease.device] = self.leased_bytes(lease.device) + lease.num_bytes
            self.next_epoch = max(self.next_epoch, lease.epoch + 1)
        if lease.key is not None:
            self._by_key[lease.tenant, lease.client, lease.key] = lease
        if before is None or before.due_s != lease.due_s:
            self._push(lease)

    def _push(self, lease: Lease) -> None:
        heapq.heappush(self._due, (lease.due_s, lease.lease_id))
        if len(self._due) > 2 * len(self.held) + _MIN_COMPACTED:
            self._due = [(kept.due_s, kept.lease_id) for kept in self.held.values()]
            heapq.heapify(self._due)

    def _end(self, lease: Lease) -> None:
        self.held.pop(lease.lease_id)
        self.measured_bytes.pop(lease.lease_id, None)
        on_device = self._on_device[lease.device]
        on_device.pop(lease.lease_id)
        self._leased_bytes[lease.device] -= lease.num_bytes
        if not on_device:
            del self._on_device[lease.device], self._leased_bytes[lease.device]
        if lease.key is not None:
            self._remember(lease)

    def _remember(self, lease: Lease) -> None:
        assert lease.key is not None, f"{lease.lease_id} has no key to be remembered by"
        self.remembered[lease.lease_id] = lease
        self._by_key[lease.tenant, lease.client, lease.key] = lease
        self.next_epoch = max(self.next_epoch, lease.epoch + 1)

    def _forget(self, lease: Lease) -> None:
        self.remembered.pop(lease.lease_id)
        if lease.key is not None:
            self._by_key.pop((lease.tenant, lease.client, lease.key), None)
