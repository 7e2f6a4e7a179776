"""Leases without a cluster: `python -m serve_app.leases.standalone --simulated-device GPU-0=24GB --ledger leases.db`.

For tests, measurements and trying the API out. The devices are simulated: their sizes are what the options say, and
nothing watches what holders really use. The ledger is a real one. With `--gateway` Infer is served too, by that one.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import zmq.asyncio

from placement.lease import LeasePolicy, LeaseRoom, lease_room_bytes
from serve_app.config.sizes import size_bytes
from serve_app.leases.book import LeaseBook
from serve_app.leases.calls import LeaseCalls
from serve_app.leases.clock import SystemClock
from serve_app.leases.grpc_server import GRPC_PORT, serve_grpc
from serve_app.leases.infer import Inference
from serve_app.leases.pool import InMemoryShare
from serve_app.leases.rpcs import Handlers
from serve_app.leases.service import LeaseService
from serve_app.leases.zeromq_server import ZEROMQ_PORT, serve_zeromq


def simulated_room(text: str, *, headroom: float) -> LeaseRoom:
    """`NAME=SIZE` as a device with nothing on it. Raises: ValueError."""
    name, _, size = text.partition("=")
    room = lease_room_bytes(total_bytes=size_bytes(size), headroom=headroom)
    return LeaseRoom(device=name, node="simulated", num_bytes=room, most_bytes=room)


async def run(
    rooms: Sequence[LeaseRoom],
    *,
    ledger: Path,
    policy: LeasePolicy,
    grpc_port: int,
    zeromq_port: int,
    gateways: Sequence[str] = (),
) -> None:
    """Serves both ports on loopback until SIGTERM or SIGINT; prints them once it does."""
    inference = Inference(lambda: gateways) if gateways else None
    handlers = Handlers(inference=inference)
    clock = SystemClock()
    share = InMemoryShare({room.device: room.num_bytes for room in rooms})
    service = LeaseService(
        book=LeaseBook(ledger, clock=clock, policy=policy), rooms=lambda: rooms, share=share, clock=clock, policy=policy
    )
    await service.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    with zmq.asyncio.Context() as context:
        grpc_server = await serve_grpc(service, port=grpc_port, handlers=handlers)
        zeromq_server = await serve_zeromq(LeaseCalls(service, handlers), context=context, port=zeromq_port)
        print(f"leases on grpc {grpc_server.port} zeromq {zeromq_server.port}", flush=True)  # noqa: T201  # who starts it reads this line
        await ended.wait()
        await zeromq_server.close()
        await grpc_server.close()
    if inference is not None:
        await inference.close()
    await service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Leases of simulated devices, with a durable ledger.")
    parser.add_argument("--simulated-device", action="append", required=True, metavar="NAME=SIZE")
    parser.add_argument("--headroom", type=float, default=0.2)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--port", dest="grpc_port", type=int, default=GRPC_PORT)
    parser.add_argument("--zeromq-port", type=int, default=ZEROMQ_PORT)
    parser.add_argument("--gateway", action="append", default=[], metavar="http://HOST:PORT")
    default = LeasePolicy()
    parser.add_argument("--min-hold-s", type=float, default=default.min_hold_s)
    parser.add_argument("--grace-s", type=float, default=default.grace_s)
    asked = parser.parse_args()
    policy = LeasePolicy(min_hold_s=asked.min_hold_s, grace_s=asked.grace_s)
    rooms = [simulated_room(text, headroom=asked.headroom) for text in asked.simulated_device]
    ports = {"grpc_port": asked.grpc_port, "zeromq_port": asked.zeromq_port}
    asyncio.run(run(rooms, ledger=asked.ledger, policy=policy, gateways=asked.gateway, **ports))


if __name__ == "__main__":
    main()
