"""Lease requests, rooms and an index that reads like a sentence in a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from placement.lease import Hold, Lease, LeasePolicy, LeaseRefusal, LeaseRequest, LeaseRoom, Reclaimable
from placement.lease_index import Happening, LeaseIndex
from placement.lease_rules import Decision, acquire, release, renew
from placement.lease_time import measure, sweep, vacate

GB = 10**9
A = TypeVar("A")


def room(device: str = "GPU-0", *, gb: float = 17.28, reclaimables: tuple[Reclaimable, ...] = ()) -> LeaseRoom:
    num_bytes = int(gb * GB)
    return LeaseRoom(
        device=device,
        node="node-1",
        num_bytes=num_bytes,
        most_bytes=max(num_bytes, 17_280_000_000),
        reclaimables=reclaimables,
    )


def request(
    client: str = "anna", *, gb: float = 1.0, priority: int = 0, ttl_s: float = 30.0, key: str | None = None
) -> LeaseRequest:
    return LeaseRequest(
        client=client, model_name="qwen", num_bytes=int(gb * GB), priority=priority, ttl_s=ttl_s, key=key
    )


def hold(lease: Lease, **changed: object) -> Hold:
    given = {"client": lease.client, "lease_id": lease.lease_id, "epoch": lease.epoch, **changed}
    return Hold(**given)  # type: ignore[arg-type]  # tests name the fields


@dataclass
class Leases:
    """An index with a clock of its own; every decision is applied at once."""

    rooms: Sequence[LeaseRoom] = field(default_factory=lambda: [room()])
    policy: LeasePolicy = field(default_factory=LeasePolicy)
    index: LeaseIndex = field(default_factory=LeaseIndex)
    now_s: float = 1000.0
    seen: list[tuple[Happening, str]] = field(default_factory=list)

    def ask(self, asked: LeaseRequest) -> Lease | LeaseRefusal:
        return self._apply(acquire(self.index, asked, self.rooms, policy=self.policy, now_s=self.now_s, now_unix_s=0.0))

    def granted(self, asked: LeaseRequest) -> Lease:
        answer = self.ask(asked)
        assert isinstance(answer, Lease), answer
        return answer

    def refused(self, asked: LeaseRequest) -> LeaseRefusal:
        answer = self.ask(asked)
        assert isinstance(answer, LeaseRefusal), answer
        return answer

    def renew(self, held: Hold) -> Lease | LeaseRefusal:
        return self._apply(renew(self.index, held, now_s=self.now_s))

    def release(self, held: Hold) -> Lease | LeaseRefusal:
        return self._apply(release(self.index, held, now_s=self.now_s))

    def later(self, seconds: float) -> None:
        self.now_s += seconds
        self._apply(sweep(self.index, policy=self.policy, now_s=self.now_s))

    def measured(self, lease: Lease, *, gb: float) -> None:
        told = {lease.lease_id: int(gb * GB)}
        self._apply(measure(self.index, told, policy=self.policy, now_s=self.now_s))

    def vacate(self, device: str, *, gb: float | None = None) -> tuple[Lease, ...]:
        num_bytes = int(gb * GB) if gb is not None else None
        return self._apply(
            vacate(self.index, device, num_bytes=num_bytes, reason="a fault", policy=self.policy, now_s=self.now_s)
        )

    def _apply(self, decision: Decision[A]) -> A:
        decision.apply_to(self.index)
        self.seen += [(change.kind, change.lease.lease_id) for change in decision.changes]
        return decision.answer
