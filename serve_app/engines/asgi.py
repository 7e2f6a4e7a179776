"""The engine replica's own HTTP face: plain ASGI, reached by the gateway only.

Every request must carry the internal secret. A client that goes away aborts its run at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson

from serve_app.engines.protocol import Endpoint, Engine, Stream, Unary

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
    """ASGI application around one engine. `closed` refuses new work while the replica drains."""

    def __init__(self, engine: Engine, *, secret: str, weights_version: str, traced: bool = False) -> None:
        """`traced` False keeps trace headers from an engine that would only complain of them."""
        self._origin = (WEIGHTS_HEADER, weights_version.encode())
        self._engine = engine
        self._secret = secret.encode()
        self._forwarded = _WITH_TRACE if traced else _REQUEST_ID
        self.closed = False
        self.num_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        endpoint = _ROUTES.get(scope["path"])
        if not hmac.compare_digest(headers.get(SECRET_HEADER, b""), self._secret):
            await _send_error(send, HTTPStatus.FORBIDDEN, "This address serves the gateway only.")
        elif scope["path"] == "/health":
            await self._health(send)
        elif endpoint is None or scope["method"] != "POST":
            await _send_error(send, HTTPStatus.NOT_FOUND, f"No route {scope['method']} {scope['path']} on an engine.")
        elif self.closed or not self._engine.alive():
            await _send_error(send, HTTPStatus.SERVICE_UNAVAILABLE, "The engine of this replica is not serving.")
        else:
            await self._run(endpoint, headers, receive, send)

    async def _health(self, send: Send) -> None:
        alive = self._engine.alive() and not self.closed
        await _send(send, HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE, orjson.dumps({"alive": alive}))

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
        answer = await self._engine.answer(endpoint, body, headers)
        if isinstance(answer, Unary):
            await _send(send, answer.status, answer.body, self._origin)
        else:
            await _stream(send, answer, self._origin)


async def _stream(send: Send, answer: Stream, origin: Header) -> None:
    chunks: AsyncIterator[bytes] = answer.chunks
    async with contextlib.aclosing(chunks) as events:  # type: ignore[type-var]  # vLLM yields async generators
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": [_EVENTS, origin]})
        async for chunk in events:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or None when the client left before sending it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
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
