"""The last traces of this machine, read back from the files of `files.py`. Changes nothing.

A line cut short by a crash, or a file that goes while it is read, is left out and no error.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracing import names
from tracing.files import SUFFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """One finished span. Times in nanoseconds since the epoch; `status` is ok, error or unset."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    service: str
    start_ns: int
    end_ns: int
    status: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    trace_id: str
    start_ns: int
    duration_ms: float
    root: str
    """What was asked for: the first span of ours that names an HTTP route, else the root."""
    status: str
    """error if any span is."""
    num_spans: int
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TreeNode:
    span: SpanRecord
    children: tuple[TreeNode, ...]


def read_spans(directory: Path) -> Iterator[SpanRecord]:
    """All spans in the files, in no particular order."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            span = _parse(line)
            if span is not None:
                yield span


def recent_traces(directory: Path, *, limit: int) -> tuple[TraceSummary, ...]:
    """The `limit` traces begun last, newest first."""
    traces: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in read_spans(directory):
        traces[span.trace_id].append(span)
    summaries = sorted((_summary(spans) for spans in traces.values()), key=lambda trace: trace.start_ns, reverse=True)
    return tuple(summaries[:limit])


def find_traces(directory: Path, prefix: str) -> dict[str, tuple[SpanRecord, ...]]:
    """Spans of each trace whose id begins with `prefix`, by trace id."""
    found: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in read_spans(directory):
        if span.trace_id.startswith(prefix.lower()):
            found[span.trace_id].append(span)
    return {trace_id: tuple(spans) for trace_id, spans in found.items()}


def tree(spans: Sequence[SpanRecord]) -> tuple[TreeNode, ...]:
    """The spans of one trace as a forest in order of time: a span whose parent is not here is a root."""
    by_id = {span.span_id: span for span in spans}
    children: dict[str | None, list[SpanRecord]] = defaultdict(list)
    for span in by_id.values():
        parent = span.parent_id if span.parent_id in by_id and span.parent_id != span.span_id else None
        children[parent].append(span)

    def nodes(parent: str | None) -> tuple[TreeNode, ...]:
        ordered = sorted(children[parent], key=lambda span: (span.start_ns, -span.end_ns))
        return tuple(TreeNode(span, nodes(span.span_id)) for span in ordered)

    return nodes(None)


def _summary(spans: Sequence[SpanRecord]) -> TraceSummary:
    roots = tree(spans)
    start_ns = min(span.start_ns for span in spans)
    return TraceSummary(
        trace_id=spans[0].trace_id,
        start_ns=start_ns,
        duration_ms=(max(span.end_ns for span in spans) - start_ns) / 1e6,
        root=_asked_for(spans) or (roots[0].span.name if roots else spans[0].name),
        status="error" if any(span.status == "error" for span in spans) else "ok",
        num_spans=len(spans),
        services=tuple(sorted({span.service for span in spans})),
    )


def _asked_for(spans: Sequence[SpanRecord]) -> str | None:
    """`POST /v1/…` says more than the name of Serve's span around it."""
    ours = [span for span in spans if names.HTTP_ROUTE in span.attributes and " /" in span.name]
    return min(ours, key=lambda span: span.start_ns).name if ours else None


def _parse(line: str) -> SpanRecord | None:
    try:
        raw = json.loads(line)
        return SpanRecord(
            trace_id=raw["trace"],
            span_id=raw["span"],
            parent_id=raw["parent"],
            name=raw["name"],
            kind=raw["kind"],
            service=raw["service"],
            start_ns=int(raw["start_ns"]),
            end_ns=int(raw["end_ns"]),
            status=raw["status"],
            attributes=raw["attributes"],
        )
    except (ValueError, KeyError, TypeError):
        return None
