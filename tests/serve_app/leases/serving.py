"""A lease service with a clock that a test moves, and the servers before it on free ports."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import zmq
import zmq.asyncio

from placement.lease import Hold, Lease, LeasePolicy, LeaseRequest, LeaseRoom
from serve_app.leases.book import LeaseBook
from serve_app.leases.calls import LeaseCalls
from serve_app.leases.grpc_server import serve_grpc
from serve_app.leases.pool import InMemoryShare
from serve_app.leases.rpcs import Handlers, messages_and_services
from serve_app.leases.service import LeaseService, Observer, Reclaimer
from serve_app.leases.zeromq_server import serve_zeromq

MB = 10**6
ROOM = LeaseRoom(device="GPU-0", node="node-1", num_bytes=17_280 * MB, most_bytes=17_280 * MB)


@dataclass
class HandClock:
    """Moves only by hand. `boot` changes when the machine restarts."""

    at_s: float = 1000.0
    wall_s: float = 1_700_000_000.0
    boot: str = "first"

    def now_s(self) -> float:
        return self.at_s

    def unix_s(self) -> float:
        return self.wall_s


def asked(
    client: str = "anna", *, mb: int = 1000, priority: int = 0, ttl_s: float = 30.0, key: str | None = None
) -> LeaseRequest:
    return LeaseRequest(client=client, model_name="qwen", num_bytes=mb * MB, priority=priority, ttl_s=ttl_s, key=key)


def held(lease: Lease) -> Hold:
    return Hold(client=lease.client, lease_id=lease.lease_id, epoch=lease.epoch)


@dataclass
class Bench:
    """What a test builds servers from; the ledger's file outlives a service."""

    ledger: Path
    clock: HandClock = field(default_factory=HandClock)
    rooms: Sequence[LeaseRoom] = (ROOM,)
    policy: LeasePolicy = field(default_factory=LeasePolicy)
    share: InMemoryShare = field(default_factory=lambda: InMemoryShare({"GPU-0": 17_280 * MB, "GPU-1": 17_280 * MB}))
    reclaimer: Reclaimer | None = None
    observer: Observer | None = None

    def service(self) -> LeaseService:
        book = LeaseBook(self.ledger, clock=self.clock, policy=self.policy)
        return LeaseService(
            book=book,
            rooms=lambda: self.rooms,
            share=self.share,
            clock=self.clock,
            policy=self.policy,
            reclaimer=self.reclaimer,
            observer=self.observer,
        )


@contextlib.asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[LeaseService]:
    service = bench.service()
    await service.start()
    try:
        yield service
    finally:
        await service.close()


@contextlib.asynccontextmanager
async def grpc_stub(service: LeaseService, **options: Any) -> AsyncIterator[Any]:
    """Our own stub against a server of ours."""
    server = await serve_grpc(service, port=0, **options)
    _, services = messages_and_services()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield services.ModelOpsStub(channel)
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def zeromq_socket(service: LeaseService, handlers: Handlers | None = None) -> AsyncIterator[zmq.asyncio.Socket]:
    """A REQ socket connected to a server of ours."""
    with zmq.asyncio.Context() as context:
        server = await serve_zeromq(LeaseCalls(service, handlers), context=context, port=0)
        socket = context.socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"tcp://127.0.0.1:{server.port}")
        try:
            yield socket
        finally:
            socket.close()
            await server.close()
