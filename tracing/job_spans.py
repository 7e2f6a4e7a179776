"""The spans of one job, typed: submitted, scheduled, run, settled. Only tells, decides nothing.

The first attempt continues the trace of the submission, hours later and in another process if need be. Every later
attempt is a trace of its own that links to the run before it. Spans are ended by hand, because a job outlives every
call; one that was begun before a crash of its process is lost, its children are not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from opentelemetry import trace
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

from tracing import names, setup
from tracing.names import JobEvent, JobSpan
from tracing.propagation import format_traceparent, parse_traceparent
from tracing.setup import Exporting
from tracing.spans import fail

Value = str | int | float | Sequence[str]


class OpenSpan:
    """One span that is under way. Where this process traces nothing it costs nothing and passes its parent on."""

    __slots__ = ("_passed_on", "_span")

    def __init__(self, span: Span | None, passed_on: str | None) -> None:
        self._span = span
        self._passed_on = passed_on

    @property
    def traceparent(self) -> str | None:
        """For its children in other processes; None where there is no trace at all."""
        if self._span is None:
            return self._passed_on
        context = self._span.get_span_context()
        ids = format_trace_id(context.trace_id), format_span_id(context.span_id)
        return format_traceparent(*ids, sampled=context.trace_flags.sampled)

    def tell(self, facts: Mapping[str, Value]) -> None:
        if self._span is not None:
            self._span.set_attributes(facts)

    def event(self, event: JobEvent, facts: Mapping[str, Value]) -> None:
        if self._span is not None:
            self._span.add_event(event.value, facts)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """What is traced inside becomes its child."""
        if self._span is None:
            yield
            return
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    def end(self, *, error_type: str | None = None) -> None:
        if self._span is None:
            return
        if error_type is not None:
            fail(self._span, error_type)
        self._span.end()


class JobSpans:
    """Makes the spans of jobs. `exporting` None: the process's own, whenever it has one."""

    def __init__(self, exporting: Exporting | None = None) -> None:
        self._given = exporting

    def submit(self, *, job_id: str, kind: str, priority: int, caller: str | None) -> OpenSpan:
        """`caller` is a `traceparent`; None: the current span, or a new trace."""
        facts: dict[str, Value] = {
            names.MESSAGING_OPERATION: "send",
            names.JOB_ID: job_id,
            names.JOB_KIND: kind,
            names.JOB_PRIORITY: priority,
        }
        return self._begun(JobSpan.SUBMIT, SpanKind.PRODUCER, facts, parent=caller)

    def schedule(
        self, *, job_id: str, attempt: int, submit: str | None, run_before: str | None, at_s: float
    ) -> OpenSpan:
        """From the moment it was queued, `at_s` in Unix time, to the one when it gets its shares.

        `submit` and `run_before` are the `traceparent`s of its submission and of its last run, None for the first.
        """
        facts: dict[str, Value] = {names.JOB_ID: job_id, names.JOB_ATTEMPT: attempt}
        links = [_context_of(run_before)] if run_before is not None else []
        if links:
            links.append(_context_of(submit))
        parent = None if links else submit
        return self._begun(JobSpan.SCHEDULE, SpanKind.CONSUMER, facts, parent=parent, links=links, at_s=at_s, root=True)

    def run(self, schedule: str | None, *, facts: Mapping[str, Value]) -> OpenSpan:
        return self._begun(JobSpan.RUN, SpanKind.CONSUMER, facts, parent=schedule, root=True)

    def program(self, run: str | None, *, job_id: str, attempt: int, node: str) -> OpenSpan:
        """`run` is the `traceparent` of the run it is the program of."""
        facts: dict[str, Value] = {names.JOB_ID: job_id, names.JOB_ATTEMPT: attempt, names.NODE: node}
        return self._begun(JobSpan.PROGRAM, SpanKind.INTERNAL, facts, parent=run, root=True)

    def settle(self, run: str | None) -> OpenSpan:
        return self._begun(JobSpan.SETTLE, SpanKind.CLIENT, {}, parent=run, root=True)

    def _begun(
        self,
        name: JobSpan,
        kind: SpanKind,
        facts: Mapping[str, Value],
        *,
        parent: str | None,
        links: Sequence[SpanContext | None] = (),
        at_s: float | None = None,
        root: bool = False,
    ) -> OpenSpan:
        """`root`: without a parent it begins a trace, whatever span is current."""
        exporting = self._given or setup.exporting()
        if exporting is None:
            return OpenSpan(None, parent)
        remote = _context_of(parent)
        if remote is not None:
            context: Context | None = set_span_in_context(NonRecordingSpan(remote), Context())
        else:
            context = Context() if root else None
        start_ns = None if at_s is None else int(at_s * 1e9)
        linked = [Link(one) for one in links if one is not None]
        span = exporting.tracer.start_span(name.value, context, kind, dict(facts), linked, start_ns)
        return OpenSpan(span, parent)


def _context_of(traceparent: str | None) -> SpanContext | None:
    parent = None if traceparent is None else parse_traceparent(traceparent.encode("ascii", "replace"))
    if parent is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, flags)
