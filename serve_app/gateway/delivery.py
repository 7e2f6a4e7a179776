"""From a flight to one client: waits, sends, notices when the client goes. Knows no engine and no cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from serve_app.api.errors import ApiError, Outcome
from serve_app.gateway.answer_headers import JSON, Answered, CacheState, Headers, origin_headers, stream_headers
from serve_app.gateway.asgi import BODY, DISCONNECT, START, Receive, Send, send_whole
from serve_app.gateway.flight import Flight, Reader


@dataclass(frozen=True, slots=True)
class Delivered:
    """`status` is what the client saw; 499 when it left before it saw any."""

    status: int
    outcome: Outcome


CLIENT_GONE = 499
_CANCELLED = Delivered(CLIENT_GONE, Outcome.CANCELLED)
_SUCCESS = Delivered(200, Outcome.SUCCESS)

T = TypeVar("T")


class Client:
    """One client's side of a request. `own_headers` are those of the request, such as its trace id."""

    def __init__(self, receive: Receive, send: Send, own_headers: Headers) -> None:
        self.receive = receive
        self.send = send
        self.own_headers = own_headers

    async def refuse(self, error: ApiError, headers: Headers | None = None) -> Delivered:
        await send_whole(self.send, error.status, [*error.headers(), *(headers or []), *self.own_headers], error.body())
        return Delivered(error.status, error.outcome)


def deliver(
    flight: Flight, client: Client, *, answering: Answered, stream: bool, state: CacheState
) -> Awaitable[Delivered]:
    """Send what the flight brings. Whoever reads last and leaves early ends the run."""
    return while_client_stays(flight, client, lambda reader: _send(flight, reader, client, answering, stream, state))


async def while_client_stays(flight: Flight, client: Client, work: Callable[[Reader], Awaitable[T]]) -> T:
    """Do `work` with a reader that learns at once when the client goes."""
    reader = flight.attach()
    watch = asyncio.get_running_loop().create_task(_watch(client.receive, reader))
    try:
        return await work(reader)
    finally:
        watch.cancel()
        flight.detach(reader)


async def _watch(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != DISCONNECT:
        pass
    reader.leave()


async def _send(
    flight: Flight, reader: Reader, client: Client, answering: Answered, stream: bool, state: CacheState
) -> Delivered:
    there = await (reader.begun() if stream else reader.ended())
    if not there:
        return _CANCELLED
    if flight.failure is not None:
        return await client.refuse(flight.failure, origin_headers(answering, state))
    answered = flight.answered
    assert answered is not None
    if not stream:
        headers = [JSON, *origin_headers(answered, state), *client.own_headers]
        await send_whole(client.send, 200, headers, await reader.next())
        return _SUCCESS
    await client.send(
        {"type": START, "status": 200, "headers": [*stream_headers(answered, state), *client.own_headers]}
    )
    return await pump(flight, reader, client.send)


async def pump(flight: Flight, reader: Reader, send: Send) -> Delivered:
    """Send bytes as they come, until the end or until the client leaves."""
    more = True
    while more:
        data = await reader.next()
        if reader.gone:
            return Delivered(200, Outcome.CANCELLED)
        more = not reader.at_end
        await send({"type": BODY, "body": data, "more_body": more})
    return _SUCCESS if flight.broken is None else Delivered(200, flight.broken.outcome)
