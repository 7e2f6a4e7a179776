"""One request passed on whole to the gateway replica that keeps its key, and the way back.

The peer decides, caches and reports; here bytes only pass through. A peer that does not answer is reported as
`OWNER_AWAY` before anything was sent, and the caller answers the request itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from serve_app.api.errors import ApiError, engine_fault, unavailable
from serve_app.gateway import sse
from serve_app.gateway.answer_headers import Headers
from serve_app.gateway.flight import Flight
from serve_app.gateway.routing_table import Peer
from serve_app.gateway.upstream import Connection, Pool, address_of

OWNER_AWAY: Final = unavailable("The gateway that keeps this answer is away.", code="owner_away", retry_after_s=1)
_HOP_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"date", b"server"})
_STRANGER: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED})
"""Of a peer with another secret, of another cluster or not yet of ours, or one that has not heard of the key yet."""
_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedHead:
    """The peer's head as it is sent on. Stands where an engine's origin stands in other flights."""

    status: int
    headers: Headers
    stream: bool
    mode: str = ""
    model: str = ""
    weights_version: str = ""
    checkpoint_step: int | None = None


class Relay:
    """Use once. `silence_s` is the longest silence the peer itself allows an engine."""

    def __init__(self, *, pool: Pool, peer: Peer, request: bytes, flight: Flight, silence_s: float) -> None:
        self._pool = pool
        self._address = address_of(peer.url)
        self._request = request
        self._flight = flight
        self._limit_s = silence_s + _GRACE_S
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._head: RelayedHead | None = None
        self._splitter = sse.EventSplitter()
        self._over = False
        flight.fed_by(on_abandoned=self._stop, on_lag=self._on_lag)

    def start(self) -> None:
        self._timer = self._loop.call_later(self._limit_s, self._on_timer)
        connection = self._pool.take(self._address)
        if connection is None:
            self._connecting = self._loop.create_task(self._connect())
        else:
            self._send(connection)

    async def _connect(self) -> None:
        try:
            connection = await self._pool.connect(self._address)
        except OSError:
            self._connecting = None
            self._fail()
            return
        self._connecting = None
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        connection.send(self._request, self)

    # Sink

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._heard_s = self._loop.time()
        kept = [(name, value) for name, value in headers.items() if name not in _HOP_HEADERS]
        stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        self._head = RelayedHead(status=status, headers=kept, stream=stream)

    def on_data(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        assert self._head is not None
        piece = self._splitter.feed(data) if self._head.stream else data
        if piece:
            if self._flight.answered is None:
                self._flight.begin(self._head)
            self._flight.feed(piece)

    def on_end(self) -> None:
        self._connection = None
        if self._head is None or self._head.status in _STRANGER or self._flight.answered is None:
            self._fail()
            return
        self._stop()
        self._flight.finish()

    def on_lost(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        if self._head is None and connection.num_requests > 1:
            self._connecting = self._loop.create_task(self._connect())
        else:
            self._fail()

    # ends

    def _fail(self) -> None:
        """Before anything could be sent the caller answers itself; in a stream an event says what happened."""
        if self._over:
            return
        self._stop()
        if self._flight.answered is None or not (self._head and self._head.stream):
            self._flight.fail(OWNER_AWAY)
            return
        broken = _lost_midway()
        self._flight.feed(broken.event())
        self._flight.finish(broken=broken)

    def _stop(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _on_timer(self) -> None:
        left_s = self._heard_s + self._limit_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._on_timer)
        else:
            self._fail()

    def _on_lag(self, lags: bool) -> None:
        if self._connection is None:
            return
        if lags:
            self._connection.pause()
        else:
            self._connection.resume()


def _lost_midway() -> ApiError:
    message = "The gateway that relayed this answer went away in the middle of it. What was sent is incomplete."
    return engine_fault(message, status=HTTPStatus.SERVICE_UNAVAILABLE, code="gateway_died")
