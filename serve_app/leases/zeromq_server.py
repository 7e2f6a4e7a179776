"""The same RPCs over ZeroMQ: one JSON object a request, one a reply. A ROUTER socket, so REQ and DEALER both can ask.

{"rpc": "AcquireGpuLease", "request": {...}, "key": "...", "traceparent": "..."}
    ->  {"answer": {...}}  or  {"error": {"code", "message", "field", "retry_after_ms", "trace_id"}}
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import zmq
import zmq.asyncio
from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.errors import AlreadyRunning
from serve_app.leases.calls import CallError, LeaseCalls, key_error, malformed, rpc_error
from serve_app.leases.infer_wire import MAX_DEADLINE_MS, InferRequest, Sender
from serve_app.leases.keyring import (
    Asker,
    KeyRefused,
    Keyring,
    ListenerRefused,
    LoopbackOnly,
    check_listener,
    is_loopback,
)
from serve_app.leases.rpcs import RpcError
from serve_app.leases.wire import parsed
from serve_app.logs import logger

ZEROMQ_PORT: Final = 7211
MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_WAITING: Final = 1000
MAX_CALLS: Final = 256
MAX_CALL_S: Final = 30.0
INFER_S: Final = 60.0
"""Of an Infer without a deadline. Nobody here sees that an asker has left, so only time ends what it left behind."""
_BYTES_FIELD: Final = "body"
_OTHERS: Final = ("LoadModel", "UnloadModel", "SubmitJob")
log = logger("leases")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The server's key pair, in ZeroMQ's Z85 text. Clients need `public_key`, and a pair of their own."""

    public_key: bytes
    secret_key: bytes = field(repr=False)


class _Envelope(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rpc: str
    request: dict[str, Any] = {}
    key: str | None = None
    traceparent: str | None = None


class ZeromqServer:
    """A socket that listens until `close`."""

    def __init__(self, socket: zmq.asyncio.Socket, calls: LeaseCalls, keyring: Keyring) -> None:
        self._socket = socket
        self._calls = calls
        self._keyring = keyring
        self._slots = asyncio.Semaphore(MAX_CALLS)
        self._answering: set[asyncio.Task[None]] = set()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def port(self) -> int:
        return int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[-1])

    async def close(self) -> None:
        for task in (self._reading, *self._answering):
            task.cancel()
        await asyncio.gather(self._reading, *self._answering, return_exceptions=True)
        self._socket.close(linger=0)

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            await self._slots.acquire()
            task = asyncio.get_running_loop().create_task(self._reply(frames))
            self._answering.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._slots.release()

    async def _reply(self, frames: list[bytes]) -> None:
        """To whoever asked: all frames but the last are the way back."""
        answer = await self._answer(frames[-1])
        told = {"error": _fields(answer)} if isinstance(answer, CallError) else {"answer": answer}
        with contextlib.suppress(zmq.Again):  # the asker has gone, or does not read
            await self._socket.send_multipart([*frames[:-1], orjson.dumps(told)], flags=zmq.NOBLOCK)

    async def _answer(self, message: bytes) -> dict[str, Any] | CallError:
        try:
            envelope = _Envelope.model_validate_json(message)
        except ValidationError:
            return malformed("Expected a JSON object with `rpc` and `request`, and `key` where keys are needed.")
        asker = self._keyring.asker(envelope.key, rpc=envelope.rpc)
        if isinstance(asker, KeyRefused):
            return key_error(asker)
        try:
            if envelope.rpc == "Infer":
                return await self._inferred(envelope)
            async with asyncio.timeout(MAX_CALL_S):
                return await self._called(envelope, asker)
        except RpcError as error:
            return rpc_error(error)
        except TimeoutError:
            return CallError(code="deadline_exceeded", message=f"No answer within {MAX_CALL_S:.0f} s.", status=504)

    async def _inferred(self, envelope: _Envelope) -> dict[str, Any] | CallError:
        request = parsed(InferRequest, orjson.dumps(envelope.request))
        if isinstance(request, str):
            return malformed(request)
        sender = Sender(key=envelope.key, traceparent=envelope.traceparent)
        limit_s = MAX_DEADLINE_MS / 1000 if request.deadline_ms else INFER_S
        return await self._calls.handlers.infer().answer(request, sender, limit_s=limit_s)

    async def _called(self, envelope: _Envelope, asker: Asker) -> dict[str, Any] | CallError:
        call = self._calls.by_rpc.get(envelope.rpc)
        if call is not None:
            return await call(envelope.request, asker)
        if envelope.rpc not in _OTHERS:
            names = ", ".join([*self._calls.by_rpc, "Infer", *_OTHERS])
            return CallError(code="unknown_rpc", message=f"There is no such RPC. Valid are {names}.", status=404)
        return _as_json(await self._calls.handlers.of(envelope.rpc)(_as_bytes(envelope.request)))


def _as_bytes(fields: dict[str, Any]) -> dict[str, Any]:
    """A `body` is bytes inside; in JSON it stands as the JSON it holds."""
    return {name: orjson.dumps(value) if name == _BYTES_FIELD else value for name, value in fields.items()}


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: orjson.loads(value) if name == _BYTES_FIELD else value for name, value in fields.items()}


def _fields(error: CallError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "field": error.field,
        "retry_after_ms": error.retry_after_ms or 0,
        "trace_id": error.trace_id,
    }


async def serve_zeromq(
    calls: LeaseCalls,
    *,
    context: zmq.asyncio.Context,
    host: str = "127.0.0.1",
    port: int = ZEROMQ_PORT,
    keyring: Keyring | None = None,
    curve: Curve | None = None,
) -> ZeromqServer:
    """Port 0 takes a free one. Raises: ListenerRefused without CURVE beyond loopback, AlreadyRunning."""
    keyring = keyring or LoopbackOnly()
    if curve is None and not is_loopback(host):
        raise ListenerRefused(f"The lease server does not start: ZeroMQ on '{host}' needs CURVE keys.")
    check_listener(keyring, host, encrypted=curve is not None)
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.RCVHWM, MAX_WAITING)
    socket.setsockopt(zmq.SNDHWM, MAX_WAITING)
    if curve is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, curve.public_key)
        socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret_key)
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise AlreadyRunning(
            f"The lease server cannot listen on {host}:{port} ({error}).",
            expected="A free port of this machine.",
            advice="Look at what listens there with `ss -ltnp`, or name another port.",
        ) from error
    return ZeromqServer(socket, calls, keyring)
