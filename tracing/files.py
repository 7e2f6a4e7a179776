"""The last spans of this machine in local files, one JSON object per line, for `headroom traces`.

Each process writes files of its own and keeps two; the directory as a whole is bounded too, because processes
come and go. Runs on the exporter's thread only. Reading them back is in `recent.py`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id

from tracing import names
from tracing.sampling import is_control_call

SUFFIX = ".jsonl"
MAX_FILE_BYTES = 4 << 20
MAX_FILES = 64
"""Files in the directory, of all processes together: at most 256 MiB."""


class FileExporter(SpanExporter):
    """Turns to a new file after `keep_recent` traces or `max_bytes`, and deletes its last but one.

    So between one and two times `keep_recent` traces can be read back. Files are for their owner only.
    """

    def __init__(self, directory: Path, *, keep_recent: int, max_bytes: int = MAX_FILE_BYTES) -> None:
        assert keep_recent > 0
        self._directory = directory
        self._keep_recent = keep_recent
        self._max_bytes = max_bytes
        self._file: IO[str] | None = None
        self._pid = 0
        self._own: list[Path] = []
        self._traces: set[int] = set()
        self._num_bytes = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        watched = {trace_id for span in spans if (trace_id := _watching_trace(span)) is not None}
        try:
            for span in spans:
                if (span.context is None or span.context.trace_id not in watched) and not is_control_call(span.name):
                    self._write(span)
            if self._file is not None:
                self._file.flush()
        except OSError:  # disk full, directory gone: the spans are lost and counted, nothing else
            self._close()
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _write(self, span: ReadableSpan) -> None:
        assert span.context is not None
        full = len(self._traces) >= self._keep_recent and span.context.trace_id not in self._traces
        if self._file is None or self._pid != os.getpid() or full or self._num_bytes >= self._max_bytes:
            self._file = self._next_file(str(span.resource.attributes.get("service.name", "unknown")))
        self._traces.add(span.context.trace_id)
        line = json.dumps(span_record(span), separators=(",", ":"), default=str)
        self._num_bytes += self._file.write(line + "\n")

    def _next_file(self, service: str) -> IO[str]:
        self._close()
        if self._pid != os.getpid():
            self._own, self._pid = [], os.getpid()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        safe_name = "".join(char if char.isalnum() or char == "-" else "_" for char in service)
        path = self._directory / f"{safe_name}-{self._pid}-{time.time_ns():x}{SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._own.append(path)
        while len(self._own) > 2:
            self._own.pop(0).unlink(missing_ok=True)
        _prune(self._directory)
        self._traces, self._num_bytes = set(), 0
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def _close(self) -> None:
        if self._file is not None and self._pid == os.getpid():
            try:
                self._file.close()
            except OSError:
                pass
        self._file = None

    def shutdown(self) -> None:
        self._close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Every export ends flushed."""
        return True


def _watching_trace(span: ReadableSpan) -> int | None:
    """The trace of a request that only looks at the cluster: a health check, a scrape.

    They come every few seconds and would push the requests of users out of the files. All spans of such a
    trace end within milliseconds, so that they are nearly always in one batch.
    """
    route = (span.attributes or {}).get(names.HTTP_ROUTE)
    if span.context is None or route not in names.WATCHING_ROUTES:
        return None
    return int(span.context.trace_id)


def _prune(directory: Path) -> None:
    """Oldest files beyond `MAX_FILES` go; another process may be doing the same."""
    ages: list[tuple[int, Path]] = []
    for path in directory.glob(f"*{SUFFIX}"):
        try:
            ages.append((path.stat().st_mtime_ns, path))
        except FileNotFoundError:
            continue
    for _, path in sorted(ages)[:-MAX_FILES]:
        path.unlink(missing_ok=True)


def span_record(span: ReadableSpan) -> dict[str, Any]:
    """One line of a trace file. Times are nanoseconds since the epoch, ids lower-case hex."""
    assert span.context is not None
    resource = span.resource.attributes
    return {
        "trace": format_trace_id(span.context.trace_id),
        "span": format_span_id(span.context.span_id),
        "parent": format_span_id(span.parent.span_id) if span.parent else None,
        "name": span.name,
        "kind": span.kind.name.lower(),
        "service": resource.get("service.name", ""),
        "instance": resource.get("service.instance.id", ""),
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name.lower(),
        "attributes": _plain(span.attributes or {}),
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": _plain(event.attributes or {})}
            for event in span.events
        ],
        "links": [
            {"trace": format_trace_id(link.context.trace_id), "span": format_span_id(link.context.span_id)}
            for link in span.links
        ],
    }


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items()}
