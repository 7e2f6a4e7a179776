"""One request is one trace, whoever begins it; and none of it holds what was asked or answered."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from tracing import names, setup
from tracing.names import Operation
from tracing.propagation import format_traceparent, incoming, new_span_id, new_trace_id, parse_traceparent
from tracing.sampling import Budget
from tracing.settings import ExportSettings
from tracing.setup import Exporting
from tracing.spans import RequestTrace, begin_request, current_headers, operation

CALLER = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
ROUTE = "/v1/chat/completions"


class Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def named(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans if span.name == name)
        return found


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def exporting(kept: Kept) -> Iterator[Exporting]:
    started = setup.start(ExportSettings(otlp=None, directory=None, max_per_s=None), names.GATEWAY)
    started.provider.add_span_processor(kept)
    yield started
    started.provider.shutdown()


def headers(traceparent: str = CALLER, **others: str) -> list[tuple[bytes, bytes]]:
    every = {"host": "localhost", "traceparent": traceparent, **others}
    return [(name.encode(), value.encode()) for name, value in every.items()]


def begin(exporting: Exporting | None, sent: Sequence[tuple[bytes, bytes]] = ()) -> RequestTrace:
    return begin_request("POST", ROUTE, sent, exporting=exporting)


def whole_request(exporting: Exporting, sent: Sequence[tuple[bytes, bytes]] = ()) -> dict[str, str]:
    """Returns what is sent on to the engine."""
    request = begin(exporting, sent)
    route = request.route("fast", requested_model="fast", tenant="0f3a")
    route.decided(model="mini", deployment="mini@node-1", cache="miss")
    call = route.call(Operation.CHAT, "mini", max_tokens=16, temperature=0.2, top_p=0.9)
    call.answered(
        response_model="mini",
        response_id="chatcmpl-1",
        finish_reasons=["stop"],
        input_tokens=7,
        output_tokens=3,
        weights_version="0123456789ab",
        device="node-1/host",
    )
    call.end()
    route.end()
    request.end(status=200)
    return call.outgoing_headers()


class TestOneTrace:
    def test_the_server_span_is_a_child_of_the_caller(self, exporting: Exporting, kept: Kept) -> None:
        request = begin(exporting, headers())
        request.end(status=200)
        span = kept.named(f"POST {ROUTE}")
        assert request.trace_id == "a" * 32
        assert span.parent is not None
        assert format_span_id(span.parent.span_id) == "b" * 16
        assert span.kind is SpanKind.SERVER

    def test_server_route_and_call_lie_within_each_other(self, exporting: Exporting, kept: Kept) -> None:
        sent_on = whole_request(exporting, headers())
        chain = [kept.named(name) for name in (f"POST {ROUTE}", "route fast", "chat mini")]
        for outer, inner in itertools.pairwise(chain):
            assert inner.parent is not None
            assert outer.context is not None
            assert inner.parent.span_id == outer.context.span_id
        assert [span.kind for span in chain] == [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT]
        call = chain[-1].context
        assert call is not None
        assert sent_on["traceparent"] == f"00-{'a' * 32}-{format_span_id(call.span_id)}-01"

    def test_serves_span_in_the_callers_trace_is_the_parent(self, exporting: Exporting, kept: Kept) -> None:
        context = trace.set_span_in_context(trace.INVALID_SPAN)
        parent = parse_traceparent(CALLER.encode())
        assert parent is not None
        remote = trace.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, trace.TraceFlags(1))
        context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        serve = exporting.tracer.start_span("replica_handle_request", context)
        with trace.use_span(serve, end_on_exit=True):
            begin(exporting, headers()).end(status=200)
        span = kept.named(f"POST {ROUTE}")
        assert span.parent is not None
        assert span.parent.span_id == serve.get_span_context().span_id

    def test_a_current_span_of_another_trace_does_not_break_the_callers(self, exporting: Exporting, kept: Kept) -> None:
        with exporting.tracer.start_as_current_span("unrelated"):
            request = begin(exporting, headers())
            request.end(status=200)
        assert request.trace_id == "a" * 32

    def test_without_a_caller_a_new_trace_begins(self, exporting: Exporting, kept: Kept) -> None:
        first, second = begin(exporting), begin(exporting)
        assert first.trace_id != second.trace_id
        first.end(status=200)
        (span,) = kept.spans
        assert span.parent is None
        assert span.context is not None
        assert format_trace_id(span.context.trace_id) == first.trace_id

    def test_tracestate_travels_on(self, exporting: Exporting) -> None:
        assert whole_request(exporting, headers(tracestate="vendor=1"))["tracestate"] == "vendor=1"
        assert begin(None, headers(tracestate="vendor=1")).outgoing_headers()["tracestate"] == "vendor=1"


class TestAttributes:
    def test_the_client_span_speaks_the_genai_conventions(self, exporting: Exporting, kept: Kept) -> None:
        whole_request(exporting)
        assert dict(kept.named("chat mini").attributes or {}) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": "mini",
            "gen_ai.request.max_tokens": 16,
            "gen_ai.request.temperature": 0.2,
            "gen_ai.request.top_p": 0.9,
            "gen_ai.response.model": "mini",
            "gen_ai.response.id": "chatcmpl-1",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.output_tokens": 3,
            "headroom.weights_version": "0123456789ab",
            "headroom.device": "node-1/host",
        }

    def test_tokens_are_on_the_client_span_only(self, exporting: Exporting, kept: Kept) -> None:
        whole_request(exporting)
        with_tokens = [span.name for span in kept.spans if names.GEN_AI_OUTPUT_TOKENS in (span.attributes or {})]
        assert with_tokens == ["chat mini"]

    def test_a_server_error_marks_the_span_and_a_client_error_does_not(self, exporting: Exporting, kept: Kept) -> None:
        for status in (200, 404, 503):
            begin(exporting).end(status=status)
        assert [span.status.status_code for span in kept.spans] == [
            StatusCode.UNSET,
            StatusCode.UNSET,
            StatusCode.ERROR,
        ]
        assert (kept.spans[-1].attributes or {})["error.type"] == "503"

    def test_a_failed_call_names_its_error(self, exporting: Exporting, kept: Kept) -> None:
        begin(exporting).route("fast", requested_model="fast").call(Operation.CHAT, "mini").end(error_type="timeout")
        assert (kept.named("chat mini").attributes or {})["error.type"] == "timeout"

    def test_a_very_long_model_name_is_cut(self, exporting: Exporting, kept: Kept) -> None:
        begin(exporting).route(names.NO_MODE, requested_model="x" * 10**6).end()
        assert len(str((kept.named("route none").attributes or {})["gen_ai.request.model"])) == 128


class TestSilence:
    """A request that is not traced still has an id, and a context to send on."""

    def test_off_the_callers_context_is_passed_on_as_it_came(self) -> None:
        request = begin(None, headers())
        call = request.route("fast", requested_model="fast").call(Operation.CHAT, "mini")
        assert not request.recorded
        assert request.trace_id == "a" * 32
        assert call.outgoing_headers() == {"traceparent": CALLER}

    def test_off_without_a_caller_an_id_is_made_up(self) -> None:
        request = begin(None)
        parent = parse_traceparent(request.outgoing_headers()["traceparent"].encode())
        assert parent is not None
        assert parent.trace_id == request.trace_id
        assert not parent.sampled

    def test_off_nothing_can_go_wrong(self) -> None:
        request = begin(None)
        route = request.route("fast", requested_model="fast", tenant="t")
        route.decided(model="mini", cache="hit")
        call = route.call(Operation.TEXT_COMPLETION, "mini")
        call.answered(output_tokens=1)
        call.end(error_type="timeout")
        route.end()
        request.end(status=500)

    def test_a_caller_who_does_not_sample_is_obeyed(self, exporting: Exporting, kept: Kept) -> None:
        request = begin(exporting, headers(CALLER[:-2] + "00"))
        request.end(status=200)
        assert request.trace_id == "a" * 32
        assert not kept.spans

    def test_beyond_the_budget_the_engine_is_told_not_to_trace(self) -> None:
        settings = ExportSettings(otlp=None, directory=None, max_per_s=2.0)
        bounded = setup.start(settings, names.GATEWAY)
        requests = [begin(bounded, headers()) for _ in range(5)]
        flags = [request.outgoing_headers()["traceparent"][-2:] for request in requests]
        assert flags == ["01", "01", "00", "00", "00"]
        assert {request.trace_id for request in requests} == {"a" * 32}

    def test_an_engine_follows_the_gateway_beyond_any_budget(self) -> None:
        settings = ExportSettings(otlp=None, directory=None, max_per_s=1.0)
        engine = setup.start(settings, names.ENGINE)
        context = trace.set_span_in_context(
            trace.NonRecordingSpan(trace.SpanContext(1, 2, True, trace.TraceFlags(trace.TraceFlags.SAMPLED)))
        )
        assert all(engine.tracer.start_span("llm_request", context).is_recording() for _ in range(5))

    def test_an_operation_is_silent_and_its_error_goes_on(self) -> None:
        @operation(names.LOAD_MODEL_SPAN.format("mini"))
        def load() -> None:
            assert current_headers() == {}
            raise KeyError

        with pytest.raises(KeyError):
            load()


class TestOperation:
    def test_it_lies_below_the_span_of_another_process(self, exporting: Exporting, kept: Kept) -> None:
        parent = parse_traceparent(CALLER.encode())
        with operation(names.RELOAD_MODEL_SPAN.format("mini"), parent=parent, exporting=exporting):
            assert current_headers()["traceparent"].startswith("00-" + "a" * 32)
        found = kept.named("reload mini")
        assert found.parent is not None
        assert format_span_id(found.parent.span_id) == "b" * 16


class TestServesSpans:
    @pytest.mark.parametrize("name", ["route_to_replica", "replica_handle_request Controller table"])
    def test_calls_between_our_deployments_begin_no_trace(self, exporting: Exporting, name: str) -> None:
        assert not exporting.tracer.start_span(name).is_recording()

    @pytest.mark.parametrize("name", ["proxy_http_request", "replica_handle_request Gateway __call__"])
    def test_requests_do(self, exporting: Exporting, name: str) -> None:
        assert exporting.tracer.start_span(name).is_recording()

    def test_below_a_request_a_call_stays(self, exporting: Exporting) -> None:
        with exporting.tracer.start_as_current_span("proxy_http_request"):
            assert exporting.tracer.start_span("route_to_replica").is_recording()


class TestBudget:
    def test_it_fills_with_time_and_never_above_one_second(self) -> None:
        now = [0.0]
        budget = Budget(10.0, clock=lambda: now[0])
        assert sum(budget.take() for _ in range(100)) == 10
        now[0] = 0.5
        assert sum(budget.take() for _ in range(100)) == 5
        now[0] = 3600.0
        assert sum(budget.take() for _ in range(100)) == 10

    def test_none_is_without_bound(self) -> None:
        budget = Budget(None)
        assert all(budget.take() for _ in range(1000))


class TestTraceparent:
    @given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
    def test_what_is_written_is_read_back(self, trace_id: int, span_id: int, sampled: bool) -> None:
        text = format_traceparent(f"{trace_id:032x}", f"{span_id:016x}", sampled=sampled)
        parent = parse_traceparent(text.encode())
        assert parent is not None
        assert parent.header() == text

    @given(st.binary(max_size=80))
    def test_no_header_raises(self, value: bytes) -> None:
        parent = parse_traceparent(value, value)
        assert parent is None or parse_traceparent(parent.header().encode()) is not None

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
            "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
            "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
            "00-" + "A" * 32 + "-" + "b" * 16 + "-01",
            "00-" + "a" * 31 + "-" + "b" * 16 + "-01",
            CALLER + "-more",
        ],
    )
    def test_the_standards_bad_examples_are_ignored(self, value: str) -> None:
        assert parse_traceparent(value.encode()) is None

    def test_a_later_version_may_be_longer(self) -> None:
        assert parse_traceparent(b"01" + CALLER[2:].encode() + b"-more") is not None

    def test_two_headers_count_as_none(self) -> None:
        assert incoming([*headers(), *headers()]) is None

    def test_ids_are_never_zero_and_differ(self) -> None:
        assert len({new_trace_id() for _ in range(1000)} | {new_span_id() for _ in range(1000)}) == 2000
