"""ASGI as the gateway uses it: the words of the protocol, the headers it reads, bodies within bounds."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from serve_app.api.errors import ApiError, body_too_large, body_too_slow, headers_too_large, invalid
from serve_app.gateway.decide import DOWNSHIFT_HEADER, MODE_HEADER, VERSION_HEADER

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

START: Final = "http.response.start"
BODY: Final = "http.response.body"
DISCONNECT: Final = "http.disconnect"

SECRET_HEADER: Final = b"x-headroom-internal"
CALLER_HEADER: Final = b"x-headroom-caller"
"""Id of the caller's key, beside the secret on a request that a gateway passes on; of others it says nothing."""
BODY_TIMEOUT_S: Final = 30.0
MAX_HEADER_BYTES: Final = 64 * 1024
"""All names and values together. What the server before us holds while they come is its own limit."""
_SWEEP_S: Final = 1.0

_MODE: Final = MODE_HEADER.encode()
_VERSION: Final = VERSION_HEADER.encode()
_DOWNSHIFT: Final = DOWNSHIFT_HEADER.encode()
_SAID_ONCE: Final = frozenset({_MODE, _VERSION, _DOWNSHIFT})
_YES_OR_NO: Final = {b"yes": True, b"no": False}
_WANTED: Final = frozenset(
    {
        *_SAID_ONCE,
        SECRET_HEADER,
        CALLER_HEADER,
        b"cache-control",
        b"x-request-id",
        b"content-length",
        b"transfer-encoding",
    }
)
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True, kw_only=True)
class Asked:
    """What the gateway reads of a request's headers."""

    mode: bytes | None
    version: bytes | None
    """The weights version that the caller pins."""
    may_downshift: bool
    secret: bytes | None
    caller: bytes | None
    cache_control: bytes | None
    request_id: bytes
    content_length: int


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Asked, ApiError | None]:
    """One pass. Two values of what is said once are refused; a request id that is no plain word is replaced."""
    found: dict[bytes, bytes] = {}
    refusal = None
    num_bytes = 0
    for name, value in headers:
        num_bytes += len(name) + len(value)
        if name in _WANTED:
            if name in found and found[name] != value:
                if name in _SAID_ONCE:
                    refusal = invalid(f"Two different headers `{name.decode()}`. Send one.", param=name.decode())
                value = found[name] + b"," + value
            found[name] = value
    if num_bytes > MAX_HEADER_BYTES:
        refusal = headers_too_large(MAX_HEADER_BYTES)
    request_id = found.get(b"x-request-id")
    if request_id is None or _REQUEST_ID.fullmatch(request_id) is None:
        request_id = b"%016x" % random.getrandbits(64)
    may_downshift = _YES_OR_NO.get(found.get(_DOWNSHIFT, b"yes").strip().lower())
    if may_downshift is None and refusal is None:
        refusal = invalid(f"The header `{DOWNSHIFT_HEADER}` must be yes or no.", param=DOWNSHIFT_HEADER)
    length = found.get(b"content-length", b"")
    asked = Asked(
        mode=found.get(_MODE),
        version=found.get(_VERSION),
        may_downshift=may_downshift is not False,
        secret=found.get(SECRET_HEADER),
        caller=found.get(CALLER_HEADER),
        cache_control=found.get(b"cache-control"),
        request_id=request_id,
        content_length=int(length) if length.isdigit() else 0,
    )
    return asked, refusal


class BodyReader:
    """Reads bodies within a size and a time. One timer serves all requests whose body has not come yet."""

    def __init__(self, *, max_bytes: int, clock: Callable[[], float], timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._timeout_s = timeout_s
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive, *, content_length: int) -> bytes | ApiError | None:
        """The whole body; None when the client left before it was sent."""
        if content_length > self._max_bytes:
            return body_too_large(self._max_bytes)
        task = asyncio.current_task()
        assert task is not None
        self._reading[task] = self._clock()
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        try:
            return await self._read(receive)
        except asyncio.CancelledError:
            if task not in self._overdue:
                raise
            task.uncancel()
            return body_too_slow(self._timeout_s)
        finally:
            del self._reading[task]
            self._overdue.discard(task)

    async def _read(self, receive: Receive) -> bytes | ApiError | None:
        message = await receive()
        if message["type"] == DISCONNECT:
            return None
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return body if len(body) <= self._max_bytes else body_too_large(self._max_bytes)
        return await self._read_rest(bytearray(body), receive)

    async def _read_rest(self, body: bytearray, receive: Receive) -> bytes | ApiError | None:
        while len(body) <= self._max_bytes:
            message = await receive()
            if message["type"] == DISCONNECT:
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False) and len(body) <= self._max_bytes:
                return bytes(body)
        return body_too_large(self._max_bytes)

    def _sweep(self) -> None:
        self._sweeper = None
        if not self._reading:
            return
        now_s = self._clock()
        for task, since_s in self._reading.items():
            if now_s - since_s >= self._timeout_s and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """One response in two messages; `content-length` is added."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": START, "status": status, "headers": [*headers, length]})
    await send({"type": BODY, "body": body})
