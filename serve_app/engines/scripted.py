"""An engine that follows a script instead of running a model: for tests, drills and measurements of the gateway.

It speaks the wire of a real replica (`serve_app.engines.asgi` around vLLM), refuses requests without the
internal secret, and says in every answer that it is scripted. Faults are switched on by `behaviour`.
`python -m serve_app.engines.scripted --port 9001 --model mini --secret s` runs one as a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson

from serve_app.engines.asgi import send_gate_refusal
from serve_app.engines.control import Control
from serve_app.engines.gate import GateRefused
from serve_app.engines.protocol import Endpoint
from serve_app.engines.scripted_answers import stream_events, unary_answer
from serve_app.engines.scripted_weights import SCRIPTED, ScriptedWeights
from serve_app.engines.weights_switch import WeightsSwitch
from tracing.propagation import incoming
from tracing.setup import Exporting

__all__ = ["SCRIPTED", "WRONG_VERSION", "Behaviour", "Counts", "Cut", "ScriptedEngine"]

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

WRONG_VERSION = "scripted-wrong-version"
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_ROUTES = {endpoint.value: endpoint for endpoint in Endpoint}


class Behaviour(StrEnum):
    """What the engine does with the next requests. Its `/health` says 200 with all of them."""

    GOOD = "good"
    DIE_BEFORE_FIRST_BYTE = "die_before_first_byte"
    """Sends a head, then cuts the connection."""
    DIE_AFTER_FIRST_BYTE = "die_after_first_byte"
    """Cuts the connection after half of the answer."""
    HANG = "hang"
    """Never answers."""
    HANG_MIDWAY = "hang_midway"
    """Streams half of the answer, then nothing more."""
    SLOW_FIRST_TOKEN = "slow_first_token"  # noqa: S105  # no password
    """Answers after `first_token_s`."""
    GARBAGE = "garbage"
    """200 with what is no completion."""
    EMPTY = "empty"
    """A stream that ends in good order before its first event, as ours does when its engine dies."""
    NO_DONE = "no_done"
    """A stream that ends in good order but without its end mark."""
    WRONG_WEIGHTS_VERSION = "wrong_weights_version"
    """Names another version in `x-headroom-weights-version`."""
    ERROR_400 = "error_400"
    ERROR_500 = "error_500"
    ERROR_503 = "error_503"
    ERROR_EVENT = "error_event"
    """A stream that reports an error as an event and ends, as vLLM does."""


class Cut(Exception):
    """Raised into the ASGI server, which then drops the connection."""


@dataclass(slots=True)
class Counts:
    """What the engine has seen. `num_running` is what holds a slot now."""

    num_started: int = 0
    num_finished: int = 0
    num_aborted: int = 0
    num_running: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


class ScriptedEngine:
    """ASGI application. `gate`, when set to an `asyncio.Event`, holds every answer until it is set.

    `weights` has the switches for changing its weights by the control routes, which are those of a real replica.
    """

    def __init__(
        self,
        *,
        model: str,
        secret: str,
        num_words: int = 8,
        token_s: float = 0.0,
        first_token_s: float = 0.0,
        keep_bodies: bool = True,
        weights_version: str = "",
        exporting: Exporting | None = None,
    ) -> None:
        """`weights_version` is said in every answer and its head; empty: in neither, until it is changed.

        `exporting` is where its spans go, None: where the process's own go.
        """
        self.model = model
        self.behaviour = Behaviour.GOOD
        self.counts = Counts()
        self.gate: asyncio.Event | None = None
        self.weights = ScriptedWeights(model=model, version=weights_version, num_words=num_words)
        self.switch = WeightsSwitch(
            self.weights,
            model=model,
            path=Path("/scripted", weights_version),
            version=weights_version,
            fits=self.weights.fits,
            exporting=exporting,
        )
        self.num_words = num_words
        self.token_s = token_s
        self.first_token_s = first_token_s
        self._control = Control(self.switch)
        self._secret = secret.encode()
        self._keep_bodies = keep_bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        endpoint = _ROUTES.get(scope["path"])
        if not hmac.compare_digest(headers.get(b"x-headroom-internal", b""), self._secret):
            await _send_error(send, HTTPStatus.FORBIDDEN, "This address serves the gateway only.")
        elif scope["path"] == "/health":
            await _send(send, HTTPStatus.OK, b'{"alive":true}')
        elif self._control.has(scope["method"], scope["path"]):
            body = await _read(receive)
            said = await self._control.answer(scope["method"], scope["path"], body, incoming(scope["headers"]))
            await _send(send, said.status, said.body)
        elif endpoint is None or scope["method"] != "POST":
            await _send_error(send, HTTPStatus.NOT_FOUND, f"No route {scope['method']} {scope['path']} on an engine.")
        else:
            await self._serve(endpoint, headers, receive, send)

    async def _serve(self, endpoint: Endpoint, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        body = orjson.loads(await _read(receive))
        self.counts.num_started += 1
        self.counts.num_running += 1
        if self._keep_bodies:
            self.counts.bodies.append(body)
            self.counts.headers.append({name.decode(): value.decode("latin-1") for name, value in headers.items()})
        work = asyncio.ensure_future(self._passed(endpoint, body, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                self.counts.num_finished += 1
            else:
                self.counts.num_aborted += 1
        finally:
            self.counts.num_running -= 1
            gone.cancel()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, Cut):
                await work

    async def _passed(self, endpoint: Endpoint, body: dict[str, Any], send: Send) -> None:
        try:
            async with self.switch.gate.passed():
                await self._answer(endpoint, body, send)
        except GateRefused as refused:
            await send_gate_refusal(send, refused)

    async def _answer(self, endpoint: Endpoint, body: dict[str, Any], send: Send) -> None:
        behaviour = self.behaviour
        if self.gate is not None:
            await self.gate.wait()
        if behaviour is Behaviour.HANG:
            await asyncio.Event().wait()
        if behaviour is Behaviour.SLOW_FIRST_TOKEN or self.first_token_s:
            await asyncio.sleep(self.first_token_s)
        if behaviour in _ERRORS:
            await _send_error(send, _ERRORS[behaviour], "Scripted refusal.")
        elif behaviour is Behaviour.GARBAGE:
            await _send(send, HTTPStatus.OK, b"!!!!!!!! scripted garbage")
        elif body.get("stream"):
            await self._stream(behaviour, endpoint, body, send)
        else:
            await self._unary(behaviour, endpoint, body, send)

    async def _unary(self, behaviour: Behaviour, endpoint: Endpoint, body: dict[str, Any], send: Send) -> None:
        if self.token_s:
            await asyncio.sleep(self.token_s * self.num_words)
        answer = orjson.dumps(unary_answer(endpoint, self.model, body, self._words(body)))
        if behaviour not in (Behaviour.DIE_BEFORE_FIRST_BYTE, Behaviour.DIE_AFTER_FIRST_BYTE):
            await _send(send, HTTPStatus.OK, answer, extra=self._origin(behaviour))
            return
        length = (b"content-length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [_JSON, length]})
        if behaviour is Behaviour.DIE_AFTER_FIRST_BYTE:
            await send({"type": "http.response.body", "body": answer[: len(answer) // 2], "more_body": True})
        raise Cut

    async def _stream(self, behaviour: Behaviour, endpoint: Endpoint, body: dict[str, Any], send: Send) -> None:
        headers = [_EVENTS, *self._origin(behaviour)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if behaviour is Behaviour.DIE_BEFORE_FIRST_BYTE:
            raise Cut
        if behaviour is Behaviour.EMPTY:
            await send({"type": "http.response.body", "body": b""})
            return
        async for event in self._events(behaviour, endpoint, body):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _events(self, behaviour: Behaviour, endpoint: Endpoint, body: dict[str, Any]) -> AsyncIterator[bytes]:
        events = stream_events(endpoint, self.model, body, self._words(body))
        half = len(events) // 2
        for index, event in enumerate(events):
            if index == half and behaviour is Behaviour.DIE_AFTER_FIRST_BYTE:
                yield event[: len(event) // 2]
                raise Cut
            if index == half and behaviour is Behaviour.HANG_MIDWAY:
                await asyncio.Event().wait()
            if index == half and behaviour is Behaviour.ERROR_EVENT:
                yield b'data: {"error": {"message": "Scripted failure.", "type": "server_error", "code": 500}}\n\n'
                yield b"data: [DONE]\n\n"
                return
            if event == b"data: [DONE]\n\n" and behaviour is Behaviour.NO_DONE:
                return
            yield event
            if self.token_s:
                await asyncio.sleep(self.token_s)

    def _words(self, body: Mapping[str, Any]) -> list[str]:
        limit = body.get("max_completion_tokens", body.get("max_tokens", self.num_words))
        return self.weights.words(min(self.num_words, limit))

    def _origin(self, behaviour: Behaviour) -> list[tuple[bytes, bytes]]:
        version = WRONG_VERSION if behaviour is Behaviour.WRONG_WEIGHTS_VERSION else self.switch.version
        return [(b"x-headroom-weights-version", version.encode())] if version else []


_ERRORS = {
    Behaviour.ERROR_400: HTTPStatus.BAD_REQUEST,
    Behaviour.ERROR_500: HTTPStatus.INTERNAL_SERVER_ERROR,
    Behaviour.ERROR_503: HTTPStatus.SERVICE_UNAVAILABLE,
}


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, status: int, body: bytes, *, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": int(status), "headers": [_JSON, length, *(extra or [])]})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, status: HTTPStatus, message: str) -> None:
    error = {"message": message, "type": status.phrase, "param": None, "code": int(status)}
    await _send(send, status, orjson.dumps({"error": error}))


def main() -> None:
    """Serve one scripted engine on 127.0.0.1 until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(description="A scripted engine replica on 127.0.0.1.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--secret", default="local-secret")
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--token-s", type=float, default=0.0)
    parser.add_argument("--weights-version", default="")
    parser.add_argument("--behaviour", type=Behaviour, choices=list(Behaviour), default=Behaviour.GOOD)
    args = parser.parse_args()
    engine = ScriptedEngine(
        model=args.model,
        secret=args.secret,
        num_words=args.words,
        token_s=args.token_s,
        keep_bodies=False,
        weights_version=args.weights_version,
    )
    engine.behaviour = args.behaviour
    uvicorn.run(engine, host="127.0.0.1", port=args.port, access_log=False, log_level="warning", timeout_keep_alive=600)


if __name__ == "__main__":
    main()
