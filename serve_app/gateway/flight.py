"""One answer on its way and everyone who waits for it: single flight, live replay, bounded memory.

A flight is fed by one run (pushed, from the event loop) and read by one or more readers. It does not know
where the bytes come from nor where they go. When the last reader leaves before the end, the run is told at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from serve_app.api.errors import ApiError
from serve_app.gateway.answer_headers import Answered

MAX_LAG_BYTES: Final = 256 * 1024
"""Unread bytes past which the run is paused, once the flight no longer keeps everything."""


class Flight:
    """State of an answer.

    `answered` is set when the first bytes are there; `failure` when it ended without any. A failure after the
    first bytes is in `broken`, and its event is the last of the bytes. `kept_bytes` is how much is kept from the
    start for late readers; 0 keeps nothing, so that only one reader may attach.
    """

    __slots__ = (
        "_chunks",
        "_first",
        "_kept_bytes",
        "_on_abandoned",
        "_on_lag",
        "_readers",
        "answered",
        "broken",
        "failure",
        "finished",
        "keeps",
        "num_bytes",
    )

    def __init__(self, *, kept_bytes: int = 0) -> None:
        self.answered: Answered | None = None
        self.failure: ApiError | None = None
        self.broken: ApiError | None = None
        self.finished = False
        self.keeps = kept_bytes > 0
        self.num_bytes = 0
        self._kept_bytes = kept_bytes
        self._chunks: deque[bytes] = deque()
        self._first = 0
        self._readers: list[Reader] = []
        self._on_abandoned: Callable[[], None] = _nothing
        self._on_lag: Callable[[bool], None] = _ignore_lag

    def fed_by(self, *, on_abandoned: Callable[[], None], on_lag: Callable[[bool], None]) -> None:
        """Name the run: what to call when nobody waits any more, and when readers lag (True) or caught up (False)."""
        self._on_abandoned = on_abandoned
        self._on_lag = on_lag

    # for the run

    def begin(self, answered: Answered) -> None:
        self.answered = answered

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self.num_bytes += len(data)
        if self.keeps and self.num_bytes > self._kept_bytes:
            self.keeps = False  # too large to share or store; whoever is here reads on
            self._drop_read()
        self._wake()
        if self._may_lag and self._lags():
            self._on_lag(True)

    def finish(self, *, broken: ApiError | None = None) -> None:
        self.broken = broken
        self.finished = True
        self._wake()

    def fail(self, failure: ApiError) -> None:
        self.failure = failure
        self.finished = True
        self._wake()

    def whole(self) -> bytes | None:
        """Every byte from the start, or None when not all were kept."""
        return b"".join(self._chunks) if self.keeps else None

    # for readers

    def attach(self) -> Reader:
        reader = Reader(self)
        self._readers.append(reader)
        return reader

    def detach(self, reader: Reader) -> None:
        """The last one out before the end cancels the run."""
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if not self._readers and not self.finished:
            self.finished = True
            self._on_abandoned()
        elif not self.keeps:
            self._drop_read()

    @property
    def joinable(self) -> bool:
        """True while a further reader would get everything from the first byte."""
        return self.keeps and self.failure is None and self.broken is None

    @property
    def num_readers(self) -> int:
        return len(self._readers)

    def take(self, reader: Reader) -> bytes:
        """What the reader has not had yet."""
        skip = reader.position - self._first
        if skip >= len(self._chunks):
            return b""
        data = b"".join(islice(self._chunks, skip, None)) if len(self._chunks) - skip > 1 else self._chunks[-1]
        reader.position = self._first + len(self._chunks)
        reader.num_bytes = self.num_bytes
        if not self.keeps:
            self._drop_read()
            if self._may_lag:
                self._on_lag(self._lags())
        return data

    @property
    def _may_lag(self) -> bool:
        """Most answers are shorter than what a reader may leave unread: of these nobody is asked."""
        return self.num_bytes > MAX_LAG_BYTES and not self.keeps

    def _lags(self) -> bool:
        return any(self.num_bytes - reader.num_bytes > MAX_LAG_BYTES for reader in self._readers)

    def _drop_read(self) -> None:
        if len(self._readers) == 1:
            end = self._readers[0].position
        else:
            end = min((reader.position for reader in self._readers), default=self._first + len(self._chunks))
        while self._first < end:
            self._chunks.popleft()
            self._first += 1

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()


class Reader:
    """One client of a flight. `leave` is called when the client is gone; it ends every wait."""

    __slots__ = ("_flight", "_waiter", "gone", "num_bytes", "position")

    def __init__(self, flight: Flight) -> None:
        self.position = 0
        self.num_bytes = 0
        self.gone = False
        self._flight = flight
        self._waiter: asyncio.Future[None] | None = None

    async def begun(self) -> bool:
        """Wait for the first bytes or the end; False when the client left meanwhile."""
        while not (self._flight.answered or self._flight.finished or self.gone):
            await self._wait()
        return not self.gone

    async def ended(self) -> bool:
        """Wait for the end; False when the client left meanwhile."""
        while not (self._flight.finished or self.gone):
            await self._wait()
        return not self.gone

    async def next(self) -> bytes:
        """The next bytes; empty at the end, or when the client left."""
        while not self.gone:
            data = self._flight.take(self)
            if data or self._flight.finished:
                return data
            await self._wait()
        return b""

    @property
    def at_end(self) -> bool:
        """True when nothing is left to read and nothing more will come."""
        return self._flight.finished and self.num_bytes == self._flight.num_bytes

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        self.gone = True
        self.wake()

    def _wait(self) -> asyncio.Future[None]:
        """To be awaited as it is: a coroutine around it would be one more frame to go through for every event."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


def _nothing() -> None:
    """A flight nobody feeds yet has no run to cancel."""


def _ignore_lag(lags: bool) -> None:
    """A flight nobody feeds yet has no run to pause."""
