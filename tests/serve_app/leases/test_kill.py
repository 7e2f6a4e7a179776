"""The lease server killed by SIGKILL in a run of many clients: no share held twice, epochs go on rising (threat 6)."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from serve_app.leases.clock import SystemClock
from serve_app.leases.rpcs import messages_and_services
from tests.serve_app.leases.processes import LeaseProcess, lease_process

ROOM_MB = 17_280
NUM_CLIENTS = 50
GRANTS_PER_LIFE = 150
NUM_KILLS = 3
CALL_S = 5.0


@dataclass
class Held:
    """One grant as its holder saw it: asked, told, and believed in from then until `until_s`."""

    epoch: int
    mb: int
    asked_s: float
    told_s: float
    until_s: float


@dataclass
class Run:
    stub: Any
    pb: Any
    wanted: int
    grants: list[Held] = field(default_factory=list)
    clock: SystemClock = field(default_factory=SystemClock)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self, number: int) -> None:
        """Acquires, sometimes renews, gives back, until the run has its grants; a call that fails teaches nothing."""
        chance = random.Random(number)
        while len(self.grants) < self.wanted:
            try:
                await self._once(f"c{number}", chance)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
        self.enough.set()

    async def _once(self, client: str, chance: random.Random) -> None:
        mb, asked_s = chance.randint(200, 1500), self.clock.now_s()
        request = self.pb.AcquireGpuLeaseRequest(client=client, model_name="m", vram_estimate_mb=mb, ttl_seconds=3)
        answer = await self.stub.AcquireGpuLease(request, timeout=CALL_S)
        if not answer.granted:
            await asyncio.sleep(0.01)
            return
        told_s = self.clock.now_s()
        held = Held(answer.epoch, mb, asked_s, told_s, asked_s + answer.expires_in_ms / 1000)
        self.grants.append(held)
        fields = {"client": client, "lease_id": answer.lease_id, "epoch": answer.epoch}
        await asyncio.sleep(chance.random() / 50)
        if chance.random() < 0.8:
            held.until_s = min(held.until_s, self.clock.now_s())
            await self.stub.ReleaseGpuLease(self.pb.ReleaseGpuLeaseRequest(**fields), timeout=CALL_S)


def most_believed_mb(grants: list[Held]) -> int:
    """The most that was believed in at one moment."""
    steps = [(one.told_s, one.mb) for one in grants if one.told_s < one.until_s]
    steps += [(one.until_s, -one.mb) for one in grants if one.told_s < one.until_s]
    return max(itertools.accumulate(mb for _, mb in sorted(steps)))


def out_of_order(grants: list[Held]) -> list[tuple[int, int]]:
    """Pairs of grants, the first told before the second was asked for, whose epochs do not rise."""
    return [(a.epoch, b.epoch) for a in grants for b in grants if a.told_s < b.asked_s and a.epoch >= b.epoch]


async def run_with_kills(server: LeaseProcess) -> list[Held]:
    pb, services = messages_and_services()
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        run = Run(services.ModelOpsStub(channel), pb, wanted=0)
        for life in range(1, NUM_KILLS + 2):
            run.wanted = life * GRANTS_PER_LIFE
            run.enough.clear()
            clients = asyncio.gather(*(run.client(number) for number in range(NUM_CLIENTS)))
            await run.enough.wait()
            if life <= NUM_KILLS:
                await asyncio.to_thread(server.end, signal.SIGKILL)
                await asyncio.to_thread(server.start)
            await clients
    return run.grants


class TestKilledServer:
    async def test_no_share_is_held_twice_and_epochs_rise(self, tmp_path: Path) -> None:
        with lease_process(tmp_path / "leases.db", "GPU-0=24GB") as server:
            grants = await run_with_kills(server)
        assert len(grants) >= GRANTS_PER_LIFE * (NUM_KILLS + 1)
        assert len({one.epoch for one in grants}) == len(grants)
        assert most_believed_mb(grants) <= ROOM_MB
        assert out_of_order(grants) == []


class TestItsChecks:
    def test_two_holders_of_one_room_are_found(self) -> None:
        twice = [Held(n, 10_000, asked_s=n, told_s=n + 0.5, until_s=9) for n in (1, 2)]
        assert most_believed_mb(twice) == 20_000

    def test_an_epoch_given_again_is_found(self) -> None:
        assert out_of_order([Held(5, 1, 0, 1, 9), Held(5, 1, 2, 3, 9)]) == [(5, 5)]
