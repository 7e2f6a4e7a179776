"""A play of holders and a lease server in which anything may happen, and a check of what came of it.

Real time passes in `Play.real_s`. The server sees its own clock, which starts again when its machine does, and a wall
clock that jumps. A holder believes what answers told it, counted from when it asked; answers may get lost. All times
are multiples of 1/8 s, which add up exactly on any clock.

Two laws: the bytes that holders of one device believe in at one moment never exceed its room; and of two grants, one
of which was told before the other was asked for, the later has the larger epoch.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from placement.lease import Hold, Lease, LeasePolicy, LeaseRequest, LeaseRoom, LeaseState
from serve_app.leases.book import LeaseBook
from serve_app.leases.pool import InMemoryShare
from serve_app.leases.service import LeaseService
from tests.serve_app.leases.serving import MB, HandClock

ROOMS = tuple(
    LeaseRoom(device=f"GPU-{n}", node="n", num_bytes=mb * MB, most_bytes=mb * MB) for n, mb in enumerate((1000, 600))
)
POLICY = LeasePolicy(min_hold_s=2.0, notice_s=2.0, grace_s=3.0, shrink_s=0.5, sleep_s=0.5, restart_grace_s=5.0)
A = TypeVar("A")


class Crash(StrEnum):
    """When the server is killed: never, with the write not committed, or committed and the answer not sent."""

    NO = "no"
    UNWRITTEN = "unwritten"
    UNTOLD = "untold"


@dataclass
class Belief:
    """What one holder takes for its own: until `until_s`, real time."""

    hold: Hold
    device: str
    num_bytes: int
    until_s: float
    deadline_s: float | None = None
    """Of a notice that it was told of, real time."""


@dataclass
class Play:
    ledger: Path
    book_class: type[LeaseBook] = LeaseBook
    real_s: float = 0.0
    clock: HandClock = field(default_factory=HandClock)
    beliefs: dict[str, Belief] = field(default_factory=dict)
    last_epoch: int = 0
    num_grants: int = 0
    violations: list[str] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __post_init__(self) -> None:
        self._boots = 0
        self._start()

    def close(self) -> None:
        self.loop.run_until_complete(self.service.close())
        self.loop.close()

    # -- What may happen ---------------------------------------------------------------------------

    def acquire(self, client: str, mb: int, priority: int, ttl_s: float, crash: Crash) -> None:
        request = LeaseRequest(client=client, model_name="m", num_bytes=mb * MB, priority=priority, ttl_s=ttl_s)
        lease = self._asked(self.service.acquire(request), crash)
        if not isinstance(lease, Lease):
            return
        self.num_grants += 1
        if lease.epoch <= self.last_epoch:
            self.violations.append(f"epoch {lease.epoch} was granted after {self.last_epoch}")
        self.last_epoch = max(self.last_epoch, lease.epoch)
        hold = Hold(client=client, lease_id=lease.lease_id, epoch=lease.epoch)
        self.beliefs[lease.lease_id] = Belief(hold, lease.device, lease.num_bytes, self.real_s + ttl_s)
        self._check(lease.device)

    def renew(self, which: int, acknowledges: bool, crash: Crash) -> None:
        belief = self._one(which)
        if belief is None:
            return
        acknowledges = acknowledges and belief.deadline_s is not None
        if acknowledges and belief.deadline_s is not None:
            belief.until_s = min(belief.until_s, belief.deadline_s)  # from here on, whatever the answer
        hold = Hold(
            client=belief.hold.client,
            lease_id=belief.hold.lease_id,
            epoch=belief.hold.epoch,
            acknowledges_notice=acknowledges,
        )
        lease = self._asked(self.service.renew(hold), crash)
        if isinstance(lease, Lease):
            belief.until_s = self.real_s + lease.expires_s - self.clock.now_s()
            noticed = lease.state is LeaseState.NOTICED and lease.deadline_s is not None
            belief.deadline_s = self.real_s + lease.deadline_s - self.clock.now_s() if noticed else None  # type: ignore[operator]  # just looked at
            self._check(belief.device)

    def release(self, which: int, crash: Crash) -> None:
        """The holder stops before it asks, so that it believes in nothing even when no answer comes."""
        belief = self._one(which)
        if belief is not None:
            belief.until_s = self.real_s
            self._asked(self.service.release(belief.hold), crash)

    def measure(self, which: int, mb: int) -> None:
        """What the watch of the device found for one of the leases the server keeps."""
        leases = self._asked(self.service.held(), Crash.NO)
        if leases:
            self._asked(self.service.measured({leases[which % len(leases)].lease_id: mb * MB}), Crash.NO)

    def pause(self, seconds: float) -> None:
        self.real_s += seconds
        self.clock.at_s += seconds
        self.clock.wall_s += seconds
        self.beliefs = {key: one for key, one in self.beliefs.items() if one.until_s + 60 > self.real_s}

    def sweep(self) -> None:
        self._asked(self.service.sweep(), Crash.NO)

    def jump_wall(self, seconds: float) -> None:
        self.clock.wall_s += seconds

    def restart(self, down_s: float) -> None:
        """The process alone: the clock goes on."""
        self._kill()
        self.pause(down_s)
        self._start()

    def reboot(self, down_s: float) -> None:
        """The machine: its clock starts again, and nobody can tell how long it was away."""
        self._kill()
        self.pause(down_s)
        self._boots += 1
        self.clock.boot, self.clock.at_s = f"boot {self._boots}", 10.0
        self._start()

    # -- How ---------------------------------------------------------------------------------------

    def _one(self, which: int) -> Belief | None:
        return list(self.beliefs.values())[which % len(self.beliefs)] if self.beliefs else None

    def _asked(self, call: Coroutine[Any, Any, A], crash: Crash) -> A | None:
        """The answer, or None when the server was killed over it."""
        if crash is Crash.NO:
            return self.loop.run_until_complete(call)
        task = self.loop.create_task(call)
        for _ in range(1 if crash is Crash.UNWRITTEN else 3):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()  # one round
        self._kill()
        task.cancel()
        self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        self._start()
        return None

    def _kill(self) -> None:
        """As SIGKILL would: what is not committed is gone, and nothing is tidied up."""
        book = self.service._book
        book._db.close()
        os.close(book._lock)
        self.service._flush = None
        tasks = list(self.service._tasks)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _start(self) -> None:
        share = InMemoryShare({room.device: room.num_bytes for room in ROOMS})
        book = self.book_class(self.ledger, clock=self.clock, policy=POLICY)
        self.service = LeaseService(book=book, rooms=lambda: ROOMS, share=share, clock=self.clock, policy=POLICY)
        self.loop.run_until_complete(self.service.start())

    def _check(self, device: str) -> None:
        """Beliefs begin only when an answer comes, so this is the only moment in which the first law can break."""
        believed = sum(
            one.num_bytes for one in self.beliefs.values() if one.device == device and one.until_s > self.real_s
        )
        room = next(room.num_bytes for room in ROOMS if room.device == device)
        if believed > room:
            self.violations.append(
                f"{device}: {believed // MB} MB are believed in, of {room // MB}, at {self.real_s} s"
            )
