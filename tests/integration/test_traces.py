"""One trace for one request: from the caller's header through gateway and Serve to vLLM's own span, over real OTLP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.integration.asking import ENDLESS, post_chat, user
from tests.integration.live_cluster import LiveCluster
from tests.integration.waiting import eventually
from tests.tracing.otlp_receiver import ReceivedSpan, Receiver
from tracing import names

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SERVER, ROUTE, CALL, ENGINE = "POST /v1/chat/completions", "route fast", "chat mini", "llm_request"


class Caller:
    """A client that traces: its ids, and the header it sends."""

    def __init__(self) -> None:
        self.trace_id = uuid4().hex
        self.span_id = uuid4().hex[:16]
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-01"


def spans_of(receiver: Receiver, trace_id: str, *expected: str) -> dict[str, ReceivedSpan]:
    """The spans of one trace by name, once all that are expected have arrived."""

    def of_this(spans: Sequence[ReceivedSpan]) -> dict[str, ReceivedSpan]:
        return {span.name: span for span in spans if span.trace_id == trace_id}

    return of_this(receiver.wait_for(lambda spans: set(expected) <= of_this(spans).keys()))


def ask_fast(http: httpx.Client, caller: Caller, **more: object) -> httpx.Response:
    """A question nobody asked before, so that an engine must answer it."""
    body = {"model": "fast", "messages": user(f"Repeat the word: {uuid4().hex[:6]}"), **more}
    return post_chat(http, body, traceparent=caller.traceparent).raise_for_status()


class TestOneTrace:
    def test_it_has_the_callers_id_from_its_header_to_vllms_span(self, http: httpx.Client, receiver: Receiver) -> None:
        caller = Caller()
        answer = ask_fast(http, caller)
        assert answer.headers["x-trace-id"] == caller.trace_id
        spans = spans_of(receiver, caller.trace_id, SERVER, ROUTE, CALL, ENGINE)
        assert {spans[name].service for name in (SERVER, ROUTE, CALL)} == {names.GATEWAY}
        assert spans[ENGINE].service == names.ENGINE
        assert [spans[name].kind for name in (SERVER, ROUTE, CALL, ENGINE)] == [
            "server",
            "internal",
            "client",
            "server",
        ]

    def test_every_span_hangs_below_the_one_before_and_the_first_below_the_caller(
        self, http: httpx.Client, receiver: Receiver
    ) -> None:
        caller = Caller()
        ask_fast(http, caller)
        spans = spans_of(
            receiver, caller.trace_id, SERVER, ROUTE, CALL, ENGINE, "replica_handle_request gateway __call__"
        )
        assert spans[ENGINE].parent_id == spans[CALL].span_id
        assert spans[CALL].parent_id == spans[ROUTE].span_id
        assert spans[ROUTE].parent_id == spans[SERVER].span_id
        by_id = {span.span_id: span for span in spans.values()}
        above = spans[SERVER]
        while above.parent_id in by_id:
            above = by_id[above.parent_id]
            assert "gateway" in above.name, "only Serve's own spans stand between"
        assert above.parent_id == caller.span_id

    def test_a_stream_has_the_same_trace(self, http: httpx.Client, receiver: Receiver) -> None:
        caller = Caller()
        ask_fast(http, caller, stream=True)
        spans = spans_of(receiver, caller.trace_id, SERVER, ROUTE, CALL, ENGINE)
        assert spans[CALL].attributes["gen_ai.request.stream"] is True

    def test_a_hit_ends_at_the_route(self, http: httpx.Client, receiver: Receiver) -> None:
        body = {"model": "fast", "messages": user(f"Repeat the word: {uuid4().hex[:6]}")}
        post_chat(http, body)
        caller = Caller()
        assert post_chat(http, body, traceparent=caller.traceparent).headers["x-headroom-cache"] == "hit"
        spans = spans_of(receiver, caller.trace_id, SERVER, ROUTE)
        assert spans[ROUTE].attributes["headroom.cache"] == "hit"
        assert not {CALL, ENGINE} & spans.keys()

    def test_without_a_callers_header_the_answer_names_the_trace(self, http: httpx.Client, receiver: Receiver) -> None:
        answer = post_chat(http, {"model": "mini", "messages": user("Even or odd: 6")})
        spans_of(receiver, answer.headers["x-trace-id"], SERVER, "route none", CALL, ENGINE)

    def test_what_is_refused_is_a_server_span_and_no_error(self, http: httpx.Client, receiver: Receiver) -> None:
        caller = Caller()
        post_chat(http, {"model": "nobody", "messages": user("hello")}, traceparent=caller.traceparent)
        spans = spans_of(receiver, caller.trace_id, SERVER)
        assert spans[SERVER].attributes["http.response.status_code"] == 404
        assert not spans[SERVER].is_error


class TestAttributes:
    def test_the_call_says_what_was_asked_of_whom_and_what_it_took(
        self, http: httpx.Client, cluster: LiveCluster, receiver: Receiver
    ) -> None:
        caller = Caller()
        answer = ask_fast(http, caller, max_tokens=9, **ENDLESS)
        call = spans_of(receiver, caller.trace_id, CALL)[CALL].attributes
        (device,) = cluster.fleet()["devices"]
        assert call["gen_ai.operation.name"] == "chat"
        assert call["gen_ai.provider.name"] == "vllm"
        assert (call["gen_ai.request.model"], call["gen_ai.response.model"]) == ("mini", "mini")
        assert call["gen_ai.request.max_tokens"] == 9
        assert call["gen_ai.request.temperature"] == 0
        assert call["gen_ai.response.id"] == answer.json()["id"]
        assert call["gen_ai.response.finish_reasons"] == ("length",)
        assert call["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
        assert call["gen_ai.usage.output_tokens"] == 9
        assert call["headroom.weights_version"] == answer.headers["x-headroom-weights-version"]
        assert call["headroom.device"] == device["id"]

    def test_the_route_says_what_was_decided(self, http: httpx.Client, receiver: Receiver) -> None:
        caller = Caller()
        ask_fast(http, caller)
        route = spans_of(receiver, caller.trace_id, ROUTE)[ROUTE].attributes
        assert (route["gen_ai.request.model"], route["headroom.mode"]) == ("fast", "fast")
        assert (route["headroom.model"], route["headroom.cache"]) == ("mini", "miss")
        assert route["headroom.deployment"] == "mini@head"


class TestSecrecy:
    """No prompt and no answer, in no span, page, file or log."""

    def test_a_prompt_is_nowhere(self, http: httpx.Client, cluster: LiveCluster, receiver: Receiver) -> None:
        caller, canary = Caller(), f"canary{uuid4().hex[:10]}"
        for stream in (False, True):
            body = {"model": "fast", "messages": user(f"Repeat the word: {canary}"), "stream": stream}
            post_chat(http, body, traceparent=caller.traceparent).raise_for_status()
        post_chat(http, {"model": "mini", "messages": user(f"{canary} " * 300)}, traceparent=caller.traceparent)
        post_chat(
            http, {"model": "mini", "messages": user("hi"), "stop": [canary] * 99}, traceparent=caller.traceparent
        )
        spans_of(receiver, caller.trace_id, SERVER, ROUTE, CALL, ENGINE)
        eventually(lambda: files_with(cluster.home / "traces", caller.trace_id), deadline_s=10, what="a trace file")
        assert not [one for one in receiver.requests if canary.encode() in one]
        assert not files_with(cluster.home, canary)
        assert canary not in cluster.get("/metrics").text


class TestLocalTraces:
    """`headroom traces`: the last requests, without any backend."""

    def test_it_lists_the_request_and_shows_its_tree(self, http: httpx.Client, cluster: LiveCluster) -> None:
        caller = Caller()
        ask_fast(http, caller)
        shown = eventually(lambda: _shown(cluster, caller.trace_id), deadline_s=20, what="the trace in local files")
        assert all(name in shown for name in (SERVER, ROUTE, CALL, ENGINE))
        assert caller.trace_id in cluster.headroom("traces", "--home", str(cluster.home), "--json").out


def _shown(cluster: LiveCluster, trace_id: str) -> str:
    """The picture of one trace; empty until its last span is there."""
    done = cluster.headroom("traces", trace_id, "--home", str(cluster.home))
    whole = SERVER in done.out and ENGINE in done.out  # gateway and engine write files of their own
    return done.out if done.code == 0 and whole else ""


def files_with(folder: Path, text: str) -> list[Path]:
    """Files below `folder` that hold `text`; sockets and what went meanwhile are passed over."""
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found
