"""Spans of work that goes on for long and over processes: begun under a context that was carried by hand, with links.

Not made current, and ended by hand. Where this process traces nothing they cost nothing and carry nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from tracing import setup
from tracing.propagation import format_traceparent, parse_traceparent
from tracing.setup import Exporting
from tracing.spans import Value, fail


class RoadSpan:
    """`traceparent` is what to hand on, None where nothing is traced."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self.traceparent = _header(span.get_span_context()) if span is not None else None

    def learned(self, attributes: Mapping[str, Value]) -> None:
        """Those that are None are left out."""
        if self._span is not None:
            present: dict[str, str | bool | int | float | Sequence[str]] = {
                key: value for key, value in attributes.items() if value is not None
            }
            self._span.set_attributes(present)

    def end(self, *, error_type: str | None = None) -> None:
        if self._span is None:
            return
        if error_type is not None:
            fail(self._span, error_type)
        self._span.end()


def begin_road(
    name: str,
    *,
    parent: str | None = None,
    links: Iterable[str | None] = (),
    exporting: Exporting | None = None,
) -> RoadSpan:
    """An internal span. `parent` and `links` are `traceparent`s; what is None, or none, is left out.

    `exporting` None: the process's own.
    """
    active = exporting or setup.exporting()
    if active is None:
        return RoadSpan(None)
    above = _context_of(parent)
    context = Context() if above is None else set_span_in_context(NonRecordingSpan(above), Context())
    made = [Link(one) for one in map(_context_of, links) if one is not None]
    return RoadSpan(active.tracer.start_span(name, context, SpanKind.INTERNAL, links=made))


def _context_of(traceparent: str | None) -> SpanContext | None:
    found = parse_traceparent(traceparent.encode()) if traceparent else None
    if found is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if found.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(found.trace_id, 16), int(found.span_id, 16), True, flags)


def _header(context: SpanContext) -> str:
    return format_traceparent(
        format_trace_id(context.trace_id), format_span_id(context.span_id), sampled=context.trace_flags.sampled
    )
