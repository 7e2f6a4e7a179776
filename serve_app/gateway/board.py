"""Flights under way, by key: equal requests meet here and share one run.

An answer worth keeping is stored before its flight leaves the board, so there is no moment in which an equal
request would find neither. One owner: the gateway's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from serve_app.api.errors import ApiError
from serve_app.gateway.answer_headers import CacheState
from serve_app.gateway.cache import Entry, Store
from serve_app.gateway.decide import Bypass, Decision
from serve_app.gateway.flight import Flight
from serve_app.gateway.meters import Meters
from serve_app.gateway.overload import OVERLOADED, overloaded, tenant_overloads, throttled, too_many
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.run import Run
from serve_app.gateway.run_terms import Engines, Report

KEPT_BYTES: Final = 1024 * 1024
"""Largest answer that is shared with late readers and stored."""

MAX_RUNS: Final = 4096
"""Most engine runs of one gateway replica at a time."""


class FlightBoard:
    def __init__(
        self,
        *,
        engines: Engines,
        store: Store,
        meters: Meters,
        on_ended: Callable[[Decision, Report], None],
        on_stored: Callable[[Decision], Awaitable[None]],
    ) -> None:
        """`on_stored` is called when the answer is in the store and its flight has left; it raises nothing."""
        self._on_stored = on_stored
        self._on_ended = on_ended
        self._engines = engines
        self._store = store
        self._meters = meters
        self._flights: dict[bytes, Flight] = {}
        self._storing: set[asyncio.Task[None]] = set()

    def joinable(self, decision: Decision) -> Flight | None:
        """A flight that will give this very answer from its first byte, or None."""
        if decision.key is None or decision.bypass is not None:
            return None
        flight = self._flights.get(decision.key)
        return flight if flight is not None and flight.joinable else None

    def depart(
        self,
        decision: Decision,
        *,
        tenant: str,
        request_head: Callable[[Backend], bytes],
        on_report: Callable[[Report], None],
    ) -> tuple[Flight, CacheState] | ApiError:
        """Start a run for this request. Attach a reader before the next `await`."""
        refusal = self._refusal(decision, tenant)
        if refusal is not None:
            self._meters.shed(decision.mode)
            return refusal
        flight = Flight(kept_bytes=KEPT_BYTES if decision.key is not None else 0)
        shared = decision.key is not None and decision.bypass is None
        if shared:
            assert decision.key is not None
            self._flights[decision.key] = flight

        def ended(report: Report) -> None:
            self._meters.run_ended(decision.model, report, stream=decision.stream)
            self._meters.versions.ended(decision.model, decision.weights_version, report)
            if report.failure is not None and report.failure.code == OVERLOADED:
                self._meters.shed(decision.mode)
            self._on_ended(decision, report)
            on_report(report)
            self._settle(decision, flight, report)

        run = Run(
            engines=self._engines,
            decision=decision,
            flight=flight,
            request_head=request_head,
            on_ended=ended,
            tenant=tenant,
        )
        self._meters.run_began(decision.model)
        run.start()
        return flight, CacheState.MISS if shared else CacheState.BYPASS

    def _refusal(self, decision: Decision, tenant: str) -> ApiError | None:
        """Who cannot be answered in time is told so at once."""
        if self._engines.loads.num_in_flight >= MAX_RUNS:
            return too_many(MAX_RUNS)
        if self._engines.loads.takes_none(decision.backends):
            return throttled(decision.model)
        bulkheads, room = self._engines.bulkheads, decision.room
        too_late = bulkheads.num_queued(room) and bulkheads.wait_s(room) > self._patience_s(decision)
        if not bulkheads.has_room(room, ""):
            return overloaded(decision.model, retry_after_s=bulkheads.retry_after_s(room))
        if not bulkheads.has_room(room, tenant):
            return tenant_overloads(decision.model, retry_after_s=bulkheads.retry_after_s(room))
        return overloaded(decision.model, retry_after_s=bulkheads.retry_after_s(room)) if too_late else None

    def _patience_s(self, decision: Decision) -> float:
        """A third of the mode's target may pass waiting: later its answer would come too late to keep the promise."""
        limit_s = self._engines.deadlines.queue_s
        return limit_s if decision.settings is None else min(limit_s, decision.settings.latency_target_s / 3)

    async def aclose(self) -> None:
        """Wait for answers that are being stored."""
        await asyncio.gather(*self._storing, return_exceptions=True)

    def _settle(self, decision: Decision, flight: Flight, report: Report) -> None:
        body = flight.whole() if report.whole and decision.key is not None else None
        if body is None:
            self._leave(decision, flight)
            return
        task = asyncio.get_running_loop().create_task(self._keep(decision, flight, body))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _keep(self, decision: Decision, flight: Flight, body: bytes) -> None:
        assert decision.key is not None
        entry = Entry(
            mode=decision.mode,
            model=decision.model,
            weights_version=decision.weights_version,
            checkpoint_step=decision.checkpoint_step,
            stream=decision.stream,
            body=body,
        )
        try:
            await self._store.put(decision.key, entry, ttl_s=decision.cache_ttl_s)
        finally:
            self._leave(decision, flight)
        await self._on_stored(decision)

    def _leave(self, decision: Decision, flight: Flight) -> None:
        if decision.key is not None and self._flights.get(decision.key) is flight:
            del self._flights[decision.key]


def may_read(decision: Decision) -> bool:
    """True when a stored answer may be given."""
    return decision.key is not None and decision.bypass is not Bypass.NO_CACHE
