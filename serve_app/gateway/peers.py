"""The other gateway replicas: requests passed on to the one that keeps a key, and pages asked of all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from serve_app.api.errors import Outcome
from serve_app.gateway.answer_headers import Headers
from serve_app.gateway.asgi import START, send_whole
from serve_app.gateway.delivery import CLIENT_GONE, Client, Delivered, pump, while_client_stays
from serve_app.gateway.flight import Flight, Reader
from serve_app.gateway.relay import OWNER_AWAY, Relay, RelayedHead
from serve_app.gateway.request_heads import get_request, peer_request
from serve_app.gateway.routing_table import Peer
from serve_app.gateway.upstream import Pool, address_of

PAGE_TIMEOUT_S: Final = 1.0
AWAY_S: Final = 2.0
"""How long a peer that did not answer is left alone."""


class Peers:
    def __init__(self, *, pool: Pool, silence_s: float, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._silence_s = silence_s
        self._clock = clock
        self._secret = ""
        self._away_until: dict[str, float] = {}

    def update(self, secret: str) -> None:
        self._secret = secret
        self._away_until.clear()

    async def relay(
        self,
        peer: Peer,
        *,
        path: str,
        body: bytes,
        headers: Headers,
        request_id: bytes,
        key_id: str,
        trace_headers: Mapping[str, str],
        client: Client,
    ) -> Delivered | None:
        """Pass a request on and its answer back. None: the peer is away and nothing was sent yet."""
        if self._clock() < self._away_until.get(peer.replica, 0.0):
            return None
        request = peer_request(
            url=peer.url,
            path=path,
            secret=self._secret,
            body=body,
            headers=headers,
            request_id=request_id,
            key_id=key_id,
            trace_headers=trace_headers,
        )
        flight = Flight()
        Relay(pool=self._pool, peer=peer, request=request, flight=flight, silence_s=self._silence_s).start()
        delivered = await while_client_stays(flight, client, lambda reader: _send(flight, reader, client))
        if delivered is None:
            self._away_until[peer.replica] = self._clock() + AWAY_S
        return delivered

    async def page(self, peer: Peer, path: str) -> bytes | None:
        """GET a page of a peer; None when it does not answer 200 in time."""
        request = get_request(url=peer.url, path=path, secret=self._secret)
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                connection = self._pool.take(address_of(peer.url)) or await self._pool.connect(address_of(peer.url))
                page = _Page()
                try:
                    connection.send(request, page)
                    return await page.whole
                except asyncio.CancelledError:
                    connection.abort()
                    raise
        except OSError:
            return None


async def _send(flight: Flight, reader: Reader, client: Client) -> Delivered | None:
    """None when the peer is away; `flight` then ended before anything was sent."""
    there = await reader.begun()
    head = flight.answered
    if there and isinstance(head, RelayedHead) and not head.stream:
        there = await reader.ended()
    if not there:
        return Delivered(CLIENT_GONE, Outcome.CANCELLED)
    if flight.failure is OWNER_AWAY:
        return None
    assert isinstance(head, RelayedHead)
    if not head.stream:
        await send_whole(client.send, head.status, head.headers, await reader.next())
        return Delivered(head.status, Outcome.SUCCESS)
    await client.send({"type": START, "status": head.status, "headers": head.headers})
    return await pump(flight, reader, client.send)


class _Page:
    """Collects one answer. `whole` gives its body, or None when the status is not 200 or the peer went away."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._parts: list[bytes] = []

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status

    def on_data(self, data: bytes) -> None:
        self._parts.append(data)

    def on_end(self) -> None:
        self._settle(b"".join(self._parts) if self._status == HTTPStatus.OK else None)

    def on_lost(self) -> None:
        self._settle(None)

    def _settle(self, body: bytes | None) -> None:
        if not self.whole.done():
            self.whole.set_result(body)
