"""How busy each engine replica is, seen from this gateway, and how many retries are still allowed.

One owner: the gateway's event loop. Time comes in as an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from serve_app.gateway.decide import backend_order
from serve_app.gateway.routing_table import Backend

SUSPECT_S: Final = 2.0
"""How long a replica that refused or dropped a connection is asked last."""

RETRY_RATIO: Final = 0.2
"""Retries may be at most this fraction of requests. Source: threats.md, fault 1."""

RETRY_RESERVE: Final = 10.0


class Loads:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.in_flight: dict[str, int] = {}
        self.num_in_flight = 0
        self._clock = clock
        self._suspects: dict[str, float] = {}
        self._turn = 0

    def order(self, backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
        """Backends to try for one request, the least busy first; none that has all it may take."""
        backends = tuple(backend for backend in backends if not self._is_full(backend))
        if len(backends) == 1:
            return backends
        self._turn += 1
        return backend_order(backends, self.in_flight, turn=self._turn, suspects=self._suspected())

    def takes_none(self, backends: tuple[Backend, ...]) -> bool:
        return all(self._is_full(backend) for backend in backends)

    def begin(self, replica: str) -> None:
        self.in_flight[replica] = self.in_flight.get(replica, 0) + 1
        self.num_in_flight += 1

    def end(self, replica: str) -> None:
        left = self.in_flight[replica] - 1
        self.num_in_flight -= 1
        if left:
            self.in_flight[replica] = left
        else:
            del self.in_flight[replica]

    def suspect(self, replica: str) -> None:
        self._suspects[replica] = self._clock() + SUSPECT_S

    def _is_full(self, backend: Backend) -> bool:
        limit = backend.max_in_flight
        return limit is not None and self.in_flight.get(backend.replica, 0) >= limit

    def _suspected(self) -> Collection[str]:
        if self._suspects:
            now_s = self._clock()
            self._suspects = {replica: until_s for replica, until_s in self._suspects.items() if until_s > now_s}
        return self._suspects


class RetryBudget:
    """A bucket that every request fills by a fifth and every retry empties by one."""

    def __init__(self) -> None:
        self._tokens = RETRY_RESERVE

    def earn(self) -> None:
        self._tokens = min(RETRY_RESERVE, self._tokens + RETRY_RATIO)

    def spend(self) -> bool:
        """True when a retry is allowed; it is then counted."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
