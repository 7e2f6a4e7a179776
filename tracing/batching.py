"""Ended spans wait in a bounded queue and are exported by a background thread; the request path never waits.

Unlike the SDK's batch processor it counts what it drops, ends within a stated time even when the receiver is
dead, and strips what could carry a prompt. One processor per exporter, so that a dead one delays no other.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Status

_log = logging.getLogger(__name__)

SHUTDOWN_S = 2.0
_UNSAFE = ("exception.message", "exception.stacktrace", "exception.escaped")
"""A validation error quotes its input, and that may be a prompt. `exception.type` stays; the log has the rest."""


class BatchProcessor(SpanProcessor):
    """`resource` is asked at export: the service's name may be known only after Serve made its first spans."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        name: str,
        resource: Callable[[], Resource],
        delay_s: float = 1.0,
        max_queue: int = 4096,
        max_batch: int = 512,
    ) -> None:
        self.name = name
        self.num_dropped = 0
        self.num_failed = 0
        self._exporter = exporter
        self._resource = resource
        self._delay_s = delay_s
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._queue: deque[ReadableSpan | threading.Event] = deque()
        self._start_thread()

    def _start_thread(self) -> None:
        self._pid = os.getpid()
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"spans-{self.name}", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if self._pid != os.getpid():  # a fork has no threads but this one, and its parent exports what was queued
            self._queue.clear()
            self._start_thread()
        if self._stopping or len(self._queue) >= self._max_queue:
            self.num_dropped += 1
            return
        self._queue.append(span)
        if len(self._queue) == self._max_batch:
            self._wake.set()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """True when everything ended before the call was handed to the exporter within the time."""
        done = threading.Event()
        self._queue.append(done)
        self._wake.set()
        return done.wait(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Exports what is queued, but takes `SHUTDOWN_S` at most, then tells the exporter to give up."""
        if self._stopping:
            return
        self._stopping = True
        self._wake.set()
        if self._pid == os.getpid():
            self._thread.join(SHUTDOWN_S)
        self._exporter.shutdown()

    def _work(self) -> None:
        while not self._stopping:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        batch: list[ReadableSpan] = []
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, threading.Event):
                self._export(batch)
                batch = []
                item.set()
            else:
                batch.append(item)
            if len(batch) == self._max_batch:
                self._export(batch)
                batch = []
        self._export(batch)

    def _export(self, batch: list[ReadableSpan]) -> None:
        if not batch:
            return
        resource = self._resource()
        try:
            result = self._exporter.export([safe_copy(span, resource) for span in batch])
        except Exception as error:  # noqa: BLE001 - a fault of telemetry is never a fault of the product
            _log.warning("Spans could not be exported by %s: %s", self.name, type(error).__name__)
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self.num_failed += len(batch)


def safe_copy(span: ReadableSpan, resource: Resource) -> ReadableSpan:
    """The same span under `resource`, without the free text that errors bring along."""
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=resource,
        attributes=span.attributes,
        events=[_safe_event(event) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _safe_event(event: Event) -> Event:
    kept = {key: value for key, value in (event.attributes or {}).items() if key not in _UNSAFE}
    return Event(event.name, kept, event.timestamp)
