"""The replicas one run asks, one after the other: whom, over which connection, and what its end says of it.

A lost replica is replaced once by another of the same weights, within the budget. Knows nothing of the answer: whether
one has begun, so that nothing may be asked again, is for the run to say.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Final

from serve_app.api.errors import ApiError
from serve_app.gateway.answers import RETRY_S, went_away
from serve_app.gateway.breakers import Verdict
from serve_app.gateway.decide import Decision
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.run_terms import Engines
from serve_app.gateway.upstream import Connection, Sink, address_of

MAX_RETRIES: Final = 1
BACKOFF_S: Final = 0.025
"""Longest pause before the first retry; it doubles with each further one. The pause is drawn from 0 to that."""


class Attempts:
    """`on_failed` hears that nobody is left to ask; answers go to `sink`."""

    def __init__(
        self,
        *,
        engines: Engines,
        decision: Decision,
        request_head: Callable[[Backend], bytes],
        sink: Sink,
        on_failed: Callable[[ApiError], None],
    ) -> None:
        self.num_retries = 0
        self.asked: Backend | None = None
        """The last one that was asked."""
        self._engines = engines
        self._decision = decision
        self._request_head = request_head
        self._sink = sink
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._waiting: Iterator[Backend] = iter(())
        self._rest_s = 0
        self._is_probe = False
        self._sent_s = 0.0
        self._told_s = -math.inf
        self._backend: Backend | None = None
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pause: asyncio.TimerHandle | None = None

    def begin(self, *, at_once: bool) -> None:
        """`at_once` False: in a later turn of the loop, for a caller that must not wait for what follows here."""
        decision = self._decision
        target_s = decision.settings.latency_target_s if decision.settings else None
        self._waiting = iter(self._engines.loads.order(decision.backends, prefix=decision.prefix, target_s=target_s))
        if at_once:
            self._next()
        else:
            self._pause = self._loop.call_later(0, self._next)

    def hear(self) -> float:
        """Bytes came; the time now. Whoever watches for hangs is told only as often as it can matter."""
        now_s = self._loop.time()
        loads = self._engines.loads
        if now_s - self._told_s >= loads.hear_every_s and self._backend is not None:
            self._told_s = now_s
            loads.heard(self._backend.replica)
        return now_s

    def answered(self) -> None:
        """The answer is whole, and its connection is the pool's again."""
        self._connection = None

    def reconnected(self) -> bool:
        """After a connection was lost before a head: True when it had been idle and a new one is on its way.

        The replica had closed it meanwhile: no fault, and no retry.
        """
        connection, backend = self._connection, self._backend
        assert connection is not None
        assert backend is not None
        if connection.num_requests == 1:
            return False
        self._connection = None
        self._attempt(backend, None)
        return True

    def replace(self, *, rest_s: int = 0) -> None:
        """Nothing was answered yet: ask another replica, once and within the budget.

        `rest_s` above 0: the replica is well, but asked to be left alone for so long.
        """
        backend = self._backend
        assert backend is not None
        self.drop(abort=True, verdict=Verdict.UNKNOWN if rest_s else Verdict.BAD)
        if rest_s:
            self._engines.loads.rest(backend.replica, rest_s)
            self._rest_s = max(self._rest_s, rest_s)
        else:
            self._engines.loads.suspect(backend.replica)
        if self.num_retries < MAX_RETRIES and len(self._decision.backends) > 1 and self._engines.retries.spend():
            pause_s = self._engines.jitter() * BACKOFF_S * 2**self.num_retries
            self.num_retries += 1
            self._pause = self._loop.call_later(pause_s, self._next)
        else:
            self._on_failed(went_away(self._decision.model, retry_after_s=self._rest_s or RETRY_S))

    def drop(self, *, abort: bool, verdict: Verdict = Verdict.UNKNOWN) -> None:
        """End what is under way, if anything is; `verdict` is of the replica asked."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None and abort:
            self._connection.abort()
        self._connection = None
        if self._backend is not None:
            took_s = self._loop.time() - self._sent_s if verdict is Verdict.GOOD else None
            self._engines.loads.end(self._backend.replica, verdict, probe=self._is_probe, took_s=took_s)
            self._backend = None

    def hold(self, holds: bool) -> bool:
        """Read no further, or read on; False where there is nothing to read from."""
        if self._connection is None:
            return False
        if holds:
            self._connection.pause()
        else:
            self._connection.resume()
        return True

    def _next(self) -> None:
        self._pause = None
        backend = next(self._waiting, None)
        if backend is None:
            self._on_failed(went_away(self._decision.model))
            return
        self._backend = self.asked = backend
        self._sent_s = self._loop.time()
        self._told_s = -math.inf
        self._is_probe = self._engines.loads.begin(backend.replica)
        self._attempt(backend, self._engines.pool.take(address_of(backend.url)))

    def _attempt(self, backend: Backend, connection: Connection | None) -> None:
        if connection is None:
            self._connecting = self._loop.create_task(self._connect(backend))
        else:
            self._send(backend, connection)

    async def _connect(self, backend: Backend) -> None:
        try:
            connection = await self._engines.pool.connect(address_of(backend.url))
        except OSError:
            self._connecting = None
            self.replace()
            return
        self._connecting = None
        self._send(backend, connection)

    def _send(self, backend: Backend, connection: Connection) -> None:
        self._connection = connection
        connection.send(self._request_head(backend) + self._decision.body, self._sink)
