"""A gateway and an engine whose answers are played back in the same process: no socket, no server, no second process.

What is left is the gateway's own work from ASGI in to ASGI out, its HTTP parser towards the engine included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from serve_app.gateway.app import Gateway
from serve_app.gateway.upstream import Connection, Pool, address_of

ENGINE_URL = "http://127.0.0.1:9"
NUM_EVENTS = 19
"""First token, 16 words, usage, end mark."""
_USAGE = {"prompt_tokens": 20, "completion_tokens": 16, "total_tokens": 36}


class PlayedTransport(asyncio.Transport):
    """Answers whatever is written to it, one piece a turn of the loop, as a socket would bring them."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._pieces: Iterator[bytes] = iter(())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._pieces = iter(_STREAM if b'"stream":true' in bytes(data) else _UNARY)
        self._loop.call_soon(self._play)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Nothing to close."""

    def _play(self) -> None:
        piece = next(self._pieces, None)
        if piece is not None:
            self._loop.call_soon(self._play)
            self._connection.data_received(piece)


def play_engine(pool: Pool, *, num_connections: int = 1) -> None:
    """Fill a gateway's pool with idle connections to `ENGINE_URL`, so that it never opens one."""
    for _ in range(num_connections):
        connection = Connection(pool, address_of(ENGINE_URL))
        connection.connection_made(PlayedTransport(connection))
        pool.release(connection)


class PlayedClient:
    """One request to a gateway, as often as wanted; stays until it has its answer."""

    def __init__(self, gateway: Gateway, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._gateway = gateway
        self._body = body
        own = [(b"host", b"x"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self._scope = {"type": "http", "method": "POST", "path": path, "headers": [*own, *headers]}

    async def ask(self) -> None:
        """In a task of its own, as servers have it. Raises AssertionError for an answer other than 200."""
        await asyncio.create_task(self._asked())

    async def _asked(self) -> None:
        messages: Iterator[Mapping[str, Any]] = iter(
            ({"type": "http.request", "body": self._body, "more_body": False},)
        )

        async def receive() -> Mapping[str, Any]:
            return next(messages, None) or await _stays()

        await self._gateway(self._scope, receive, _accept)


async def _stays() -> Mapping[str, Any]:
    forever: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
    return await forever


async def _accept(message: dict[str, Any]) -> None:
    assert message.get("status", 200) == 200, message


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + orjson.dumps({**_SAME, "object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


def _chunked(events: list[bytes]) -> tuple[bytes, ...]:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"x-headroom-weights-version: standalone\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return (head, *(b"%x\r\n%s\r\n" % (len(event), event) for event in events), b"0\r\n\r\n")


def _whole(body: bytes) -> tuple[bytes, ...]:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        b"x-headroom-weights-version: standalone\r\ncontent-length: %d\r\n\r\n"
    )
    return (head % len(body) + body,)


_SAME = {"id": "chatcmpl-1", "created": 1, "model": "mini"}
_MESSAGE = {"role": "assistant", "content": "word " * 16}
_CHOICE = {"index": 0, "message": _MESSAGE, "finish_reason": "stop"}
_UNARY = _whole(orjson.dumps({**_SAME, "object": "chat.completion", "choices": [_CHOICE], "usage": _USAGE}))
_STREAM = _chunked(
    [
        _event({"role": "assistant", "content": ""}),
        *(_event({"content": "word "}) for _ in range(15)),
        _event({"content": "word"}, "stop"),
        b"data: "
        + orjson.dumps({**_SAME, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
        + b"\n\n",
        b"data: [DONE]\n\n",
    ]
)
assert len(_STREAM) == NUM_EVENTS + 2
