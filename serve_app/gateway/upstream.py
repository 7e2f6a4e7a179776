"""A small HTTP/1.1 client for engine replicas and other gateways: pooled keep-alive connections, pushed answers.

The parser is httptools; this file only moves bytes. It knows no request of the product, no retry, no deadline.
Why not aiohttp's client: `DESIGN.md`, "The client", has the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import httptools

CONNECT_TIMEOUT_S: Final = 2.0
MAX_IDLE_PER_ADDRESS: Final = 128
_MAX_HEADERS: Final = 100

Address = tuple[str, int]


class Sink(Protocol):
    """Whoever asked. Called from the event loop; must not raise."""

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None:
        """The answer is whole; the connection belongs to the pool again."""

    def on_lost(self) -> None:
        """The connection ended, or spoke no HTTP, before the answer was whole."""


@lru_cache(maxsize=512)
def address_of(url: str) -> Address:
    """Host and port of an `http://host:port` address. Raises ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise ValueError(f"a replica's address must be http://host:port, not {url!r}")
    return parts.hostname, parts.port


class Connection(asyncio.Protocol):
    """One connection. At most one request is on it at a time; `num_requests` counts them."""

    def __init__(self, pool: Pool, address: Address) -> None:
        self.address = address
        self.num_requests = 0
        self._pool = pool
        self._sink: Sink | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: dict[bytes, bytes] = {}
        self._paused = False

    @property
    def reusable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, sink: Sink) -> None:
        """Write a whole request; the answer is pushed into `sink`."""
        assert self._transport is not None
        assert self._sink is None
        self._sink = sink
        self.num_requests += 1
        self._transport.write(request)

    def abort(self) -> None:
        """Close at once: the peer sees its client go. The sink hears nothing more."""
        self._sink = None
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._sink is None:  # an idle connection has nothing to say
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) < _MAX_HEADERS:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._sink is not None and self._parser.get_status_code() >= 200:
            self._sink.on_head(self._parser.get_status_code(), self._headers)

    def on_body(self, body: bytes) -> None:
        if self._sink is not None:
            self._sink.on_data(body)

    def on_message_complete(self) -> None:
        if self._sink is None or self._parser.get_status_code() < 200:
            return
        sink, self._sink = self._sink, None
        self.resume()
        if self._parser.should_keep_alive():
            self._pool.release(self)
        elif self._transport is not None:
            self._transport.close()
        sink.on_end()

    def _lose(self) -> None:
        sink = self._sink
        self.abort()
        if sink is not None:
            sink.on_lost()


class Pool:
    """Idle connections by address, the last used first."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[Connection]] = {}

    def take(self, address: Address) -> Connection | None:
        """An idle connection, or None: then `connect`."""
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.reusable:
                return connection
        return None

    async def connect(self, address: Address) -> Connection:
        """A new connection. Raises OSError (TimeoutError included) when the address does not answer."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(lambda: Connection(self, address), *address)
        return connection

    def release(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.address, [])
        if connection.reusable and len(idle) < MAX_IDLE_PER_ADDRESS:
            idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: Connection) -> None:
        idle = self._idle.get(connection.address)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def keep_only(self, addresses: set[Address]) -> None:
        """Close idle connections to replicas that are gone."""
        for address in self._idle.keys() - addresses:
            for connection in list(self._idle[address]):
                connection.abort()
            del self._idle[address]

    def close(self) -> None:
        self.keep_only(set())
