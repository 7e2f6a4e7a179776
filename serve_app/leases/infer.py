"""Infer and InferStream: a call to a gateway of this cluster over HTTP, with the caller's own key.

A shell: what is said and what an answer means stands in `infer_wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import aiohttp

from serve_app.gateway.sse import DONE, EventSplitter
from serve_app.leases.infer_wire import (
    GatewayRequest,
    InferRequest,
    Sender,
    gateway_request,
    infer_answer,
    infer_chunk,
    infer_error,
    origin,
)
from serve_app.leases.rpcs import RpcError

MAX_INFERS: Final = 128
"""At once, over all transports: fewer than ZeroMQ answers at once, so that leases are always heard beside them."""
MAX_ANSWER_BYTES: Final = 3 << 20
"""Under the 4 MiB of a gRPC message, which holds the text beside it."""
_CONNECT_S: Final = 2.0
_BUSY_MS: Final = 1000
_EVENT_END: Final = b"\n\n"
Tell = Callable[[dict[str, Any]], Awaitable[None]]


class Inference:
    """`gateways` gives the addresses of all that serve now; each call goes to the next of them.

    Ending a call, in whatever way, closes its connection: the gateway sees that its client has left.
    """

    def __init__(self, gateways: Callable[[], Sequence[str]], *, max_calls: int = MAX_INFERS) -> None:
        self._gateways = gateways
        self._max_calls = max_calls
        self.num_calls = 0
        """Under way now."""
        self._turn = 0
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, asked: InferRequest, sender: Sender, *, limit_s: float) -> dict[str, Any]:
        """The fields of an InferAnswer. Raises: RpcError."""
        request = gateway_request(asked, sender)
        with self._slot():
            async with _within(asked, limit_s), self._sent(request) as response:
                return infer_answer(response.headers, await _whole(response))

    async def stream(self, asked: InferRequest, sender: Sender, tell: Tell, *, limit_s: float) -> None:
        """Tells the fields of each InferChunk; `limit_s` bounds a slow reader too. Raises: RpcError, also midway."""
        request = gateway_request(asked, sender, streamed=True)
        with self._slot():
            async with _within(asked, limit_s), self._sent(request) as response:
                first = origin(response.headers)
                async for event in _events(response):
                    chunk = infer_chunk(event)
                    if chunk is not None:
                        await tell(first | chunk)
                        first = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """Refuses at once where none is free: a call that waits here would only grow old."""
        if self.num_calls >= self._max_calls:
            message = f"{self._max_calls} calls of Infer are under way, the most there may be. Try again in 1 s."
            raise RpcError(code="RESOURCE_EXHAUSTED", message=message, reason="too_many_calls", retry_after_ms=_BUSY_MS)
        self.num_calls += 1
        try:
            yield
        finally:
            self.num_calls -= 1

    @contextlib.asynccontextmanager
    async def _sent(self, request: GatewayRequest) -> AsyncIterator[aiohttp.ClientResponse]:
        """The gateway's 200. One that nothing listens at is passed over; what has begun is never asked twice."""
        session = self._http()
        for address in self._in_turn():
            url = address + request.path
            asking = session.post(url, data=request.body, headers=request.headers, allow_redirects=False)
            try:
                response = await asking.__aenter__()
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue
            except aiohttp.ClientError as error:
                raise _gone() from error
            async with response:
                if response.status != 200:
                    raise infer_error(response.status, response.headers, await _whole(response))
                yield response
            return
        message = "No gateway of this cluster answers. Try again in 1 s."
        raise RpcError(code="UNAVAILABLE", message=message, reason="no_gateway", retry_after_ms=_BUSY_MS)

    def _in_turn(self) -> list[str]:
        addresses = list(self._gateways())
        self._turn += 1
        start = self._turn % len(addresses) if addresses else 0
        return addresses[start:] + addresses[:start]

    def _http(self) -> aiohttp.ClientSession:
        """Made in the loop that uses it. A connection for each call: none can be stale, and closing one ends a call."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self._session


@contextlib.asynccontextmanager
async def _within(asked: InferRequest, limit_s: float) -> AsyncIterator[None]:
    limit_s = min(limit_s, asked.deadline_ms / 1000) if asked.deadline_ms else limit_s
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        message = f"There was no whole answer within {limit_s:g} s. Ask for less, or with a later deadline."
        raise RpcError(code="DEADLINE_EXCEEDED", message=message) from error


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    except aiohttp.ClientError as error:
        raise _gone() from error


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in _pieces(response):
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise _too_large()
    return bytes(body)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Each whole event. Raises: RpcError where the stream ends without its end mark."""
    splitter, last = EventSplitter(), b""
    async for piece in _pieces(response):
        for event in splitter.feed(piece).split(_EVENT_END)[:-1]:
            last = event + _EVENT_END
            yield last
        if splitter.held_bytes > MAX_ANSWER_BYTES:
            raise _too_large()
    if last != DONE:
        raise _gone()


def _gone() -> RpcError:
    message = "The gateway went away before its answer was whole. Ask again."
    return RpcError(code="UNAVAILABLE", message=message, reason="gateway_died", retry_after_ms=_BUSY_MS)


def _too_large() -> RpcError:
    message = (
        f"The answer is larger than {MAX_ANSWER_BYTES} bytes. Ask for fewer tokens or choices, or use InferStream."
    )
    return RpcError(code="RESOURCE_EXHAUSTED", message=message, reason="answer_too_large")
