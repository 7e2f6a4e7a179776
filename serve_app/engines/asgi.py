"""The engine replica's own HTTP face: plain ASGI, reached by the gateway and, for its weights, by the controller.

Every request must carry the internal secret. A client that goes away aborts its run, or frees its place at the gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson

from serve_app.engines.control import Control
from serve_app.engines.control_wire import MOST_BYTES
from serve_app.engines.gate import GateRefused
from serve_app.engines.protocol import Endpoint, Engine, Stream, Unary
from serve_app.engines.weights_switch import WeightsSwitch
from tracing.propagation import incoming

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Header = tuple[bytes, bytes]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SECRET_HEADER = b"x-headroom-internal"
WEIGHTS_HEADER = b"x-headroom-weights-version"
_REQUEST_ID = {b"x-request-id": "x-request-id"}
_WITH_TRACE = {**_REQUEST_ID, b"traceparent": "traceparent", b"tracestate": "tracestate"}
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_ROUTES = {endpoint.value: endpoint for endpoint in Endpoint}


class EngineServer:
    """ASGI application around one engine and its weights. After `refuse_all` nothing is answered but 503."""

    def __init__(self, engine: Engine, *, secret: str, switch: WeightsSwitch, traced: bool = False) -> None:
        """`traced` False keeps trace headers from an engine that would only complain of them."""
        self._engine = engine
        self._switch = switch
        self._control = Control(switch)
        self._secret = secret.encode()
        self._forwarded = _WITH_TRACE if traced else _REQUEST_ID
        self.closed = False
        self.num_in_flight = 0
        """Runs, and requests that wait at the gate."""

    def refuse_all(self) -> None:
        """The replica ends: no new work, and who waits at the gate is told."""
        self.closed = True
        self._switch.gate.turn_away("The engine of this replica ends.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        endpoint = _ROUTES.get(scope["path"])
        if not hmac.compare_digest(headers.get(SECRET_HEADER, b""), self._secret):
            await _send_error(send, HTTPStatus.FORBIDDEN, "This address serves the gateway only.")
        elif scope["path"] == "/health":
            await self._health(send)
        elif self._control.has(scope["method"], scope["path"]):
            await self._answer_control(scope, receive, send)
        elif endpoint is None or scope["method"] != "POST":
            await _send_error(send, HTTPStatus.NOT_FOUND, f"No route {scope['method']} {scope['path']} on an engine.")
        elif self.closed or not self._engine.alive():
            await _send_error(send, HTTPStatus.SERVICE_UNAVAILABLE, "The engine of this replica is not serving.")
        else:
            await self._run(endpoint, headers, receive, send)

    async def _health(self, send: Send) -> None:
        alive = self._engine.alive() and not self.closed
        await _send(send, HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE, orjson.dumps({"alive": alive}))

    async def _answer_control(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Goes on to its end when the caller leaves: a change that has begun is never cut."""
        body = await _read(receive, most_bytes=MOST_BYTES)
        if body is not None:
            said = await self._control.answer(scope["method"], scope["path"], body, incoming(scope["headers"]))
            await _send(send, said.status, said.body)

    async def _run(self, endpoint: Endpoint, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        forwarded = {name: headers[key].decode("latin-1") for key, name in self._forwarded.items() if key in headers}
        self.num_in_flight += 1
        work = asyncio.current_task()
        assert work is not None
        watch = _Watch(work, receive)
        try:
            await self._answer(endpoint, body, forwarded, send)
        except asyncio.CancelledError:
            if not watch.client_left:
                raise
        finally:
            self.num_in_flight -= 1
            watch.end()

    async def _answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str], send: Send) -> None:
        try:
            async with self._switch.gate.passed():
                # Held for the whole run: weights change only when nothing runs.
                origin = (WEIGHTS_HEADER, (self._switch.version or "").encode())
                answer = await self._engine.answer(endpoint, body, headers)
                if isinstance(answer, Unary):
                    await _send(send, answer.status, answer.body, origin)
                else:
                    await _stream(send, answer, origin)
        except GateRefused as refused:
            await send_gate_refusal(send, refused)


async def _stream(send: Send, answer: Stream, origin: Header) -> None:
    chunks: AsyncIterator[bytes] = answer.chunks
    async with contextlib.aclosing(chunks) as events:  # type: ignore[type-var]  # vLLM yields async generators
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": [_EVENTS, origin]})
        async for chunk in events:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _read(receive: Receive, *, most_bytes: int | None = None) -> bytes | None:
    """The whole body, or None when the client left before sending it. Past `most_bytes` the rest is dropped."""
    parts = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        num_bytes += len(part)
        if most_bytes is None or num_bytes <= most_bytes:
            parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


class _Watch:
    """Cancels a request's task when its client leaves, until `end`. One task less than waiting for both."""

    def __init__(self, work: asyncio.Task[Any], receive: Receive) -> None:
        self.client_left = False
        self._work = work
        self._task = asyncio.get_running_loop().create_task(self._wait(receive))

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self._work.cancel()

    def end(self) -> None:
        self._task.cancel()
        if self.client_left:
            self._work.uncancel()


async def _send(send: Send, status: int, body: bytes, *more: Header) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": int(status), "headers": [_JSON, length, *more]})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, status: HTTPStatus, message: str) -> None:
    error = {"message": message, "type": status.phrase, "param": None, "code": int(status), "origin": "engine"}
    await _send(send, status, orjson.dumps({"error": error}))


async def send_gate_refusal(send: Send, refused: GateRefused) -> None:
    """503 of a request that could not wait for the new weights, in OpenAI's form."""
    status = HTTPStatus.SERVICE_UNAVAILABLE
    error = {
        "message": str(refused),
        "type": status.phrase,
        "param": None,
        "code": "weights_changing",
        "origin": "engine",
    }
    retry_after = (b"retry-after", str(refused.retry_after_s).encode())
    await _send(send, status, orjson.dumps({"error": error}), retry_after)
