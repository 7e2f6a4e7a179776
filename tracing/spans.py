"""The spans of one request, typed: server, route, and the client span around the engine's run.

Nothing here takes a prompt or an answer, so none can be recorded. Spans are ended by hand, because a streamed
answer ends in another task than it began. Where this process traces nothing, or not this request, an object
costs about a microsecond, and still knows the trace id and what to send on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from opentelemetry import context as current_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from tracing import names, setup
from tracing.names import Operation
from tracing.propagation import TRACEPARENT, TRACESTATE, Parent, format_traceparent, incoming, new_span_id, new_trace_id
from tracing.setup import Exporting

_ERROR_STATUS = 500
_ERROR = Status(StatusCode.ERROR)
Value = str | bool | int | float | Sequence[str] | None


class CallSpan:
    """`chat {model}`: one run in an engine, seen from the gateway. Its headers make the engine's spans its children."""

    __slots__ = ("_headers", "_span")

    def __init__(self, span: Span | None, headers: dict[str, str]) -> None:
        self._span = span
        self._headers = headers

    def outgoing_headers(self) -> dict[str, str]:
        """`traceparent`, and `tracestate` where the caller sent one. Always there, traced or not."""
        return self._headers

    def answered(
        self,
        *,
        response_model: str | None = None,
        response_id: str | None = None,
        finish_reasons: Sequence[str] | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        weights_version: str | None = None,
        device: str | None = None,
    ) -> None:
        if self._span is not None:
            _set(
                self._span,
                {
                    names.GEN_AI_RESPONSE_MODEL: response_model,
                    names.GEN_AI_RESPONSE_ID: response_id,
                    names.GEN_AI_RESPONSE_FINISH_REASONS: finish_reasons,
                    names.GEN_AI_INPUT_TOKENS: input_tokens,
                    names.GEN_AI_OUTPUT_TOKENS: output_tokens,
                    names.WEIGHTS_VERSION: weights_version,
                    names.DEVICE: device,
                },
            )

    def end(self, *, error_type: str | None = None) -> None:
        """`error_type` is a bounded word such as `timeout`, `cancelled`, `connect`, or an HTTP status."""
        _end(self._span, error_type)


class RouteSpan:
    """`route {mode}`: which model answers, and whether the cache does."""

    __slots__ = ("_exporting", "_headers", "_span")

    def __init__(self, exporting: Exporting | None, span: Span | None, headers: dict[str, str]) -> None:
        self._exporting = exporting
        self._span = span
        self._headers = headers

    def decided(
        self,
        *,
        model: str | None = None,
        deployment: str | None = None,
        cache: str | None = None,
        decision: str | None = None,
        downshifted_from: str | None = None,
    ) -> None:
        """`cache` is hit, miss, shared or bypass; `decision` one clause made by the code, never by the caller."""
        if self._span is not None:
            _set(
                self._span,
                {
                    names.MODEL: model,
                    names.DEPLOYMENT: deployment,
                    names.CACHE: cache,
                    names.DECISION: decision,
                    names.DOWNSHIFTED_FROM: downshifted_from,
                },
            )

    def call(
        self,
        operation: Operation,
        model: str,
        *,
        stream: bool = False,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        choices: int | None = None,
    ) -> CallSpan:
        """Begin the client span. `choices` is the request's `n`."""
        if self._span is None or self._exporting is None:
            return CallSpan(None, self._headers)
        attributes = {
            names.GEN_AI_OPERATION: operation.value,
            names.GEN_AI_PROVIDER: names.PROVIDER_VLLM,
            names.GEN_AI_REQUEST_MODEL: model,
            names.GEN_AI_REQUEST_STREAM: stream or None,
            names.GEN_AI_REQUEST_MAX_TOKENS: max_tokens,
            names.GEN_AI_REQUEST_TEMPERATURE: temperature,
            names.GEN_AI_REQUEST_TOP_P: top_p,
            names.GEN_AI_REQUEST_CHOICES: choices if choices != 1 else None,
        }
        span = _child(self._exporting, self._span, f"{operation} {model}", SpanKind.CLIENT, attributes)
        return CallSpan(span, _headers_of(span.get_span_context(), self._headers))

    def end(self, *, error_type: str | None = None) -> None:
        _end(self._span, error_type)


class RequestTrace:
    """`POST /v1/…`: the server span. `trace_id` is what `x-trace-id` tells the caller."""

    __slots__ = ("_exporting", "_headers", "_span", "trace_id")

    def __init__(self, trace_id: str, exporting: Exporting | None, span: Span | None, headers: dict[str, str]) -> None:
        self.trace_id = trace_id
        self._exporting = exporting
        self._span = span
        self._headers = headers

    @property
    def recorded(self) -> bool:
        return self._span is not None

    def route(self, mode: str, *, requested_model: str, tenant: str | None = None) -> RouteSpan:
        """`mode` is bounded (a mode of the configuration, or `names.NO_MODE`); `tenant` is a hash, never a key."""
        if self._span is None or self._exporting is None:
            return RouteSpan(None, None, self._headers)
        if tenant is not None:
            self._span.set_attribute(names.TENANT, tenant)
        attributes = {names.GEN_AI_REQUEST_MODEL: requested_model[:128], names.MODE: mode}
        span = _child(self._exporting, self._span, names.ROUTE_SPAN.format(mode), SpanKind.INTERNAL, attributes)
        return RouteSpan(self._exporting, span, _headers_of(span.get_span_context(), self._headers))

    def outgoing_headers(self) -> dict[str, str]:
        """For a request that is passed on whole, to a peer gateway."""
        return self._headers

    def end(self, *, status: int, error_type: str | None = None) -> None:
        """As the HTTP conventions say, the span is an error from status 500 on, or when `error_type` is given."""
        if self._span is not None:
            self._span.set_attribute(names.HTTP_STATUS, status)
            _end(self._span, error_type or (str(status) if status >= _ERROR_STATUS else None))


def begin_request(
    method: str, route: str, headers: Iterable[tuple[bytes, bytes]], *, exporting: Exporting | None = None
) -> RequestTrace:
    """Begin the server span of an HTTP request. `route` is the route's template and bounded, never the raw path.

    `headers` are ASGI's. The parent is Serve's span where there is one in the caller's trace, else the caller's.
    `exporting` None: the process's own.
    """
    client = incoming(headers)
    active = exporting or setup.exporting()
    if active is None:
        return _unrecorded(client, keep_flag=True)
    current = trace.get_current_span().get_span_context()
    if current.is_valid and (client is None or format_trace_id(current.trace_id) == client.trace_id):
        context: Context | None = None
    elif (client is not None and not client.sampled) or active.budget.spent():
        return _unrecorded(client, keep_flag=False)
    else:
        context = Context() if client is None else _remote(client)
    attributes = {names.HTTP_METHOD: method, names.HTTP_ROUTE: route}
    span = active.tracer.start_span(f"{method} {route}", context, SpanKind.SERVER, attributes)
    if not span.is_recording():
        return _unrecorded(client, keep_flag=False)
    span_context = span.get_span_context()
    tracestate = {TRACESTATE: client.tracestate} if client is not None and client.tracestate else {}
    return RequestTrace(format_trace_id(span_context.trace_id), active, span, _headers_of(span_context, tracestate))


@contextlib.contextmanager
def operation(
    name: str,
    attributes: Mapping[str, Value] | None = None,
    *,
    parent: Parent | None = None,
    exporting: Exporting | None = None,
) -> Iterator[Span]:
    """An internal span made current, for work that is no request: `names.LOAD_MODEL_SPAN`, `names.PLACEMENT_SPAN`.

    An exception that passes through marks it as failed with the exception's type, and goes on. `exporting` None: the
    process's own. `parent` is another process's span; None: the current one of this process.
    """
    active = exporting or setup.exporting()
    if active is None:
        yield trace.INVALID_SPAN
        return
    context = _remote(parent) if parent is not None else None
    span = active.tracer.start_span(name, context, attributes=_present(attributes or {}))
    error_type = None
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span
    except BaseException as error:
        error_type = type(error).__name__
        raise
    finally:
        _end(span, error_type)


@contextlib.contextmanager
def within(parent: Parent | None) -> Iterator[None]:
    """Another process's span is the current one for a while; None changes nothing."""
    if parent is None:
        yield
        return
    token = current_context.attach(_remote(parent))
    try:
        yield
    finally:
        current_context.detach(token)


def fail(span: Span, error_type: str) -> None:
    """Mark as failed what ended without an exception."""
    span.set_attribute(names.ERROR_TYPE, error_type)
    span.set_status(_ERROR)


def current_headers() -> dict[str, str]:
    """`traceparent` of the current span, to carry by hand through a job or a manifest; {} without one."""
    context = trace.get_current_span().get_span_context()
    return _headers_of(context, {}) if context.is_valid else {}


def _unrecorded(client: Parent | None, *, keep_flag: bool) -> RequestTrace:
    """A caller's context is passed on with its span id; unsampled, when it was ours to decide."""
    if client is None:
        trace_id = new_trace_id()
        headers = {TRACEPARENT: format_traceparent(trace_id, new_span_id(), sampled=False)}
    else:
        trace_id = client.trace_id
        sampled = client.sampled and keep_flag
        headers = {TRACEPARENT: format_traceparent(trace_id, client.span_id, sampled=sampled)}
        if client.tracestate:
            headers[TRACESTATE] = client.tracestate
    return RequestTrace(trace_id, None, None, headers)


def _remote(client: Parent) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED if client.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([client.tracestate]) if client.tracestate else None
    parent = SpanContext(int(client.trace_id, 16), int(client.span_id, 16), True, flags, state)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _child(exporting: Exporting, parent: Span, name: str, kind: SpanKind, attributes: Mapping[str, Value]) -> Span:
    return exporting.tracer.start_span(name, set_span_in_context(parent, Context()), kind, _present(attributes))


def _headers_of(context: SpanContext, others: Mapping[str, str]) -> dict[str, str]:
    parent = format_traceparent(
        format_trace_id(context.trace_id), format_span_id(context.span_id), sampled=context.trace_flags.sampled
    )
    return {**others, TRACEPARENT: parent}


def _present(attributes: Mapping[str, Value]) -> dict[str, str | bool | int | float | Sequence[str]]:
    return {key: value for key, value in attributes.items() if value is not None}


def _set(span: Span, attributes: Mapping[str, Value]) -> None:
    span.set_attributes(_present(attributes))


def _end(span: Span | None, error_type: str | None) -> None:
    if span is None:
        return
    if error_type is not None:
        fail(span, error_type)
    span.end()
