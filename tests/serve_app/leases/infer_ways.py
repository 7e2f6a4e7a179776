"""The two ways to Infer before a real gateway with scripted engines: each asked alike, each answer read alike."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson
import zmq
import zmq.asyncio

from serve_app.access.lease_keys import LeaseKeys
from serve_app.leases.calls import LeaseCalls
from serve_app.leases.grpc_server import Tls, serve_grpc
from serve_app.leases.infer import MAX_INFERS, Inference
from serve_app.leases.keyring import Keyring, LoopbackOnly
from serve_app.leases.rpcs import Handlers, messages_and_services
from serve_app.leases.zeromq_server import serve_zeromq
from tests.serve_app.access.makers import NOW_S
from tests.serve_app.gateway.serving import DEADLINE_S, Stage
from tests.serve_app.gateway.test_access import Closed
from tests.serve_app.leases.serving import Bench, running

Told = dict[str, Any]
Way = Callable[..., Awaitable[Told]]


@dataclass(slots=True, kw_only=True)
class Ways:
    """`zeromq` is a DEALER, so a test can ask twice before it reads."""

    stage: Stage
    inference: Inference
    stub: Any
    pb: Any
    zeromq: zmq.asyncio.Socket

    async def grpc(self, *, key: str | None = None, traceparent: str | None = None, **fields: Any) -> Told:
        """The fields of the answer, or `error` as ZeroMQ tells it with gRPC's `status` beside it."""
        try:
            answer = await self.stub.Infer(self.pb.InferRequest(**fields), metadata=metadata(key, traceparent))
        except grpc.aio.AioRpcError as error:
            return refusal(error)
        told = {field.name: value for field, value in answer.ListFields()}
        usage = {field.name: value for field, value in answer.usage.ListFields()}
        return told | {"usage": usage, "fields": answer}

    async def json(self, *, key: str | None = None, traceparent: str | None = None, **fields: Any) -> Told:
        await self.send("Infer", fields, key=key, traceparent=traceparent)
        told = await self.receive()
        return told if "error" in told else told["answer"]

    async def send(self, rpc: str, fields: Told, **beside: str | None) -> None:
        await self.zeromq.send_multipart([b"", orjson.dumps({"rpc": rpc, "request": fields, **beside})])

    async def receive(self) -> Told:
        _, message = await self.zeromq.recv_multipart()
        told: Told = orjson.loads(message)
        return told


def metadata(key: str | None = None, traceparent: str | None = None) -> tuple[tuple[str, str], ...]:
    named = {"authorization": f"Bearer {key}" if key else "", "traceparent": traceparent or ""}
    return tuple((name, value) for name, value in named.items() if value)


def refusal(error: grpc.aio.AioRpcError) -> Told:
    beside = dict(error.trailing_metadata() or ())
    return {
        "status": error.code().name,
        "error": {
            "message": error.details(),
            "code": beside.get("headroom-error-code"),
            "field": beside.get("headroom-error-field"),
            "retry_after_ms": int(beside.get("retry-after-ms", 0)),
            "trace_id": beside.get("x-trace-id", ""),
        },
    }


@contextlib.asynccontextmanager
async def ways(
    stage: Stage,
    folder: Path,
    *,
    keyring: Keyring | None = None,
    gateways: Sequence[str] | None = None,
    max_calls: int = MAX_INFERS,
    tls: Tls | None = None,
) -> AsyncIterator[Ways]:
    """`gateways` are those that Infer is told of, by default the stage's own."""
    pb, services = messages_and_services()
    keyring = keyring or LoopbackOnly()
    inference = Inference(lambda: (stage.url,) if gateways is None else gateways, max_calls=max_calls)
    handlers = Handlers(inference=inference)
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(running(Bench(ledger=folder / "leases.db")))
        stack.push_async_callback(inference.close)
        server = await serve_grpc(service, port=0, handlers=handlers, keyring=keyring, tls=tls)
        stack.push_async_callback(server.close)
        address = f"localhost:{server.port}" if tls else f"127.0.0.1:{server.port}"
        trusted = grpc.ssl_channel_credentials(tls.certificate_chain) if tls else None
        channel = grpc.aio.secure_channel(address, trusted) if trusted else grpc.aio.insecure_channel(address)
        await stack.enter_async_context(channel)
        context = stack.enter_context(zmq.asyncio.Context())
        json_server = await serve_zeromq(LeaseCalls(service, handlers), context=context, port=0, keyring=keyring)
        stack.push_async_callback(json_server.close)
        socket = stack.enter_context(context.socket(zmq.DEALER))
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, int(1000 * DEADLINE_S))
        socket.connect(f"tcp://127.0.0.1:{json_server.port}")
        yield Ways(stage=stage, inference=inference, stub=services.ModelOpsStub(channel), pb=pb, zeromq=socket)


def keyring_of(keys: Closed) -> LeaseKeys:
    """The keys of a closed stage, as the controller's lease servers ask them."""
    return LeaseKeys(snapshot=keys.store.snapshot, now_s=lambda: NOW_S, has_ray_token=True)
