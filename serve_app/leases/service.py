"""The one object that all transports call: it asks the rules, writes the ledger, and only then answers.

Runs in one event loop and changes the book from nowhere else. Must not know of gRPC, ZeroMQ or HTTP.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from placement.lease import Hold, Lease, LeasePolicy, LeaseRefusal, LeaseRefusalReason, LeaseRequest, LeaseRoom
from placement.lease_index import Change
from placement.lease_preemption import Claim, StepKind
from placement.lease_rules import Decision, acquire, release, renew
from placement.lease_time import measure, readmit, sweep, vacate, without_holder
from serve_app.leases.book import LeaseBook
from serve_app.leases.clock import Clock
from serve_app.leases.pool import PooledShare, Pools
from serve_app.leases.watchers import Watcher, Watchers
from serve_app.logs import logger

SWEEP_S: Final = 1.0
_MAX_GROWTHS: Final = 3
"""How often a grant tries again because others took what the pooled share grew by."""
A = TypeVar("A")
log = logger("leases")


class Reclaimer(Protocol):
    """Who can shrink caches and let idle models sleep."""

    async def reclaim(self, claim: Claim) -> None:
        """Carry out the SHRINK_CACHE and SLEEP_MODEL steps by their deadlines; room then shows in `rooms`."""
        ...


class NothingToReclaim:
    """For a fleet whose rooms offer no reclaimables."""

    async def reclaim(self, claim: Claim) -> None:
        log.warning("a claim asks for caches or models that nobody manages", device=claim.device)


class Observer(Protocol):
    """Who counts what was answered: `rpc` as in modelops.proto, `result` is granted, done or a refusal's reason."""

    def answered(self, rpc: str, result: str, *, duration_s: float) -> None: ...


class Unobserved:
    def answered(self, rpc: str, result: str, *, duration_s: float) -> None:
        pass


class LeaseService:
    """`rooms` is asked at every request and answers from what is known, without waiting."""

    def __init__(
        self,
        *,
        book: LeaseBook,
        rooms: Callable[[], Sequence[LeaseRoom]],
        share: PooledShare,
        clock: Clock,
        policy: LeasePolicy,
        reclaimer: Reclaimer | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._book = book
        self._rooms = rooms
        self._pools = Pools(share)
        self._clock = clock
        self._policy = policy
        self._reclaimer = reclaimer or NothingToReclaim()
        self._observer = observer or Unobserved()
        self._watchers = Watchers()
        self._flush: asyncio.Future[bool] | None = None
        self._untold: list[Change] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Takes back the shares of leases that outlived a restart, then sweeps every second until `close`."""
        for room in self._rooms():
            leased = self._book.index.leased_bytes(room.device)
            if leased and not await self._pools.grow(room.device, leased, at_most=room.num_bytes):
                log.warning("leases outlived a restart but their share did not", device=room.device, bytes=leased)
        self._spawn(self._sweeping())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._durable()
        self._book.close()

    # -- What holders ask --------------------------------------------------------------------------

    async def acquire(self, request: LeaseRequest) -> Lease | LeaseRefusal:
        return await self._observed("AcquireGpuLease", "granted", self._acquire(request))

    async def renew(self, hold: Hold) -> Lease | LeaseRefusal:
        return await self._observed("RenewGpuLease", "done", self._renew(hold))

    async def release(self, hold: Hold) -> Lease | LeaseRefusal:
        return await self._observed("ReleaseGpuLease", "done", self._release(hold))

    def now_held(self) -> Sequence[Lease]:
        """The same as known now, for whoever only looks: what was answered last may not be written down yet."""
        return tuple(self._book.index.held.values())

    def pooled_bytes(self, device: str) -> int:
        """What the device's share for all leases holds, free steps included."""
        return max(self._pools.size(device), self._book.index.leased_bytes(device))

    async def held(self) -> Sequence[Lease]:
        """All leases that take room, in the order of their epochs."""
        self._catch_up()
        leases = tuple(self._book.index.held.values())
        return leases if await self._durable() else tuple(self._book.index.held.values())

    def num_held(self) -> int:
        return len(self._book.index.held)

    def watching(
        self, client: str | None = None, *, tenant: str | None = None
    ) -> AbstractContextManager[Watcher | None]:
        return self._watchers.watching(client, tenant=tenant)

    def end_watching(self) -> None:
        """For a server that closes: its watchers would keep it waiting."""
        self._watchers.end()

    def now_s(self) -> float:
        return self._clock.now_s()

    # -- What the controller tells -----------------------------------------------------------------

    def leased_bytes(self, device: str) -> int:
        return self._book.index.leased_bytes(device)

    async def measured(self, measured_bytes: Mapping[str, int]) -> None:
        """What holders' processes have on their devices, by lease id, 0 included."""
        await self._told(lambda now_s: measure(self._book.index, measured_bytes, policy=self._policy, now_s=now_s))

    async def holder_is_dead(self, lease_id: str) -> bool:
        """Ends a revoked lease before its time. False when there is no such."""
        decision = without_holder(self._book.index, lease_id, now_s=self._clock.now_s())
        return isinstance(await self._answered(decision), Lease)

    async def vacate(self, device: str, *, reason: str, num_bytes: int | None = None) -> Sequence[Lease]:
        """Notice to the holders on a device, to as many as free `num_bytes`; returns those told now."""
        now_s = self._clock.now_s()
        decision = vacate(
            self._book.index, device, num_bytes=num_bytes, reason=reason, policy=self._policy, now_s=now_s
        )
        told = await self._answered(decision)
        return told if isinstance(told, tuple) else ()

    async def readmit(self, device: str) -> None:
        """Withdraws what `vacate` told and has not taken yet."""
        await self._answered(readmit(self._book.index, device))

    async def sweep(self) -> None:
        """What time alone does; once a second is often enough, because every request catches up by itself."""
        await self._told(lambda now_s: sweep(self._book.index, policy=self._policy, now_s=now_s))
        for device in self._pools.devices:
            await self._pools.shrink(device, partial(self.leased_bytes, device))

    # -- Inside ------------------------------------------------------------------------------------

    async def _acquire(self, request: LeaseRequest) -> Lease | LeaseRefusal:
        for _ in range(_MAX_GROWTHS):
            decision = self._acquired(request)
            lease = decision.answer
            if isinstance(lease, LeaseRefusal) or not decision.changes:
                return await self._answered(decision)  # refused, or granted before
            needed = self._book.index.leased_bytes(lease.device) + lease.num_bytes
            if self._pools.holds(lease.device, needed):
                return await self._answered(decision)
            at_most = next(room.num_bytes for room in self._rooms() if room.device == lease.device)
            if not await self._pools.grow(lease.device, needed, at_most=at_most):
                break
        message = "The cluster did not let the device's share for leases grow. Ask again."
        return LeaseRefusal(reason=LeaseRefusalReason.SHARE_UNAVAILABLE, message=message)

    async def _renew(self, hold: Hold) -> Lease | LeaseRefusal:
        self._catch_up()
        return await self._answered(renew(self._book.index, hold, now_s=self._clock.now_s()))

    async def _release(self, hold: Hold) -> Lease | LeaseRefusal:
        self._catch_up()
        return await self._answered(release(self._book.index, hold, now_s=self._clock.now_s()))

    def _acquired(self, request: LeaseRequest) -> Decision[Lease | LeaseRefusal]:
        self._catch_up()
        clock = self._clock
        return acquire(
            self._book.index,
            request,
            self._rooms(),
            policy=self._policy,
            now_s=clock.now_s(),
            now_unix_s=clock.unix_s(),
        )

    def _catch_up(self) -> None:
        """No rule sees a lease whose time is over. Not waited for: what is answered next is committed with it."""
        now_s, due_s = self._clock.now_s(), self._book.index.next_due_s()
        if due_s is not None and due_s <= now_s:
            self._record(sweep(self._book.index, policy=self._policy, now_s=now_s))

    async def _observed(
        self, rpc: str, success: str, asking: Coroutine[Any, Any, Lease | LeaseRefusal]
    ) -> Lease | LeaseRefusal:
        began_s = self._clock.now_s()
        answer = await asking
        result = answer.reason.value if isinstance(answer, LeaseRefusal) else success
        self._observer.answered(rpc, result, duration_s=self._clock.now_s() - began_s)
        return answer

    async def _told(self, decide: Callable[[float], Decision[None]]) -> None:
        if not await self._durable_after(decide(self._clock.now_s())):
            log.error("the lease ledger cannot be written", step="sweep or measurement")

    async def _answered(self, decision: Decision[A]) -> A | LeaseRefusal:
        """The decision's answer once it is on the disk, or a refusal that says it is not."""
        if await self._durable_after(decision):
            return decision.answer
        message = "The lease ledger cannot be written, so nothing was changed. Ask again; an operator must look."
        return LeaseRefusal(reason=LeaseRefusalReason.LEDGER_UNAVAILABLE, message=message)

    async def _durable_after(self, decision: Decision[Any]) -> bool:
        return self._record(decision) and await self._durable()

    def _record(self, decision: Decision[Any]) -> bool:
        """Into the open transaction; `_durable` waits for its end."""
        asked = [claim for device, claim in decision.claims if claim is not None and self._is_new(device, claim)]
        try:
            self._book.put(decision)
        except sqlite3.Error as error:
            self._failed(error)
            return False
        self._untold += decision.changes
        for claim in asked:
            if any(step.kind in (StepKind.SHRINK_CACHE, StepKind.SLEEP_MODEL) for step in claim.steps):
                self._spawn(self._reclaimer.reclaim(claim))
        if decision.changes and self._flush is None:
            self._flush = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self._commit)
        return True

    def _is_new(self, device: str, claim: Claim) -> bool:
        before = self._book.index.claims.get(device)
        return before is None or before.steps != claim.steps

    async def _durable(self) -> bool:
        """Waits for the commit that all requests of this round of the loop share. True at once when none is open."""
        return self._flush is None or await asyncio.shield(self._flush)

    def _commit(self) -> None:
        if self._flush is None:
            return  # the transaction failed before its end
        try:
            self._book.commit()
        except sqlite3.Error as error:
            self._failed(error)
            return
        self._flush.set_result(True)
        self._flush = None
        self._watchers.tell(self._untold)
        self._untold.clear()

    def _failed(self, error: sqlite3.Error) -> None:
        log.error("the lease ledger cannot be written", error=str(error))
        self._untold.clear()
        flush, self._flush = self._flush, None
        if flush is not None:
            flush.set_result(False)
        self._book.reload()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.sweep()
