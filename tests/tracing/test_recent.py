"""What was written to the files comes back as traces, and `headroom traces` shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.commands.traces import command
from serve_app.errors import HeadroomError
from tracing import names, setup
from tracing.recent import find_traces, recent_traces, tree
from tracing.settings import ExportSettings
from tracing.setup import Exporting
from tracing.spans import begin_request


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def exporting(home: Path) -> Iterator[Exporting]:
    started = setup.start(ExportSettings(otlp=None, directory=home / "traces", max_per_s=None), names.GATEWAY)
    yield started
    started.provider.shutdown()


def a_request(exporting: Exporting, *, status: int = 200, mode: str = "fast") -> str:
    request = begin_request("POST", "/v1/chat/completions", [], exporting=exporting)
    route = request.route(mode, requested_model=mode)
    route.decided(model="mini", cache="miss")
    call = route.call(names.Operation.CHAT, "mini")
    call.answered(input_tokens=7, output_tokens=3)
    call.end()
    route.end()
    request.end(status=status)
    exporting.processors[0].force_flush(5000)
    return request.trace_id


def show(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--home", str(home), *arguments])


class TestReading:
    def test_the_newest_come_first_and_no_more_than_asked(self, exporting: Exporting, home: Path) -> None:
        made = [a_request(exporting) for _ in range(5)]
        listed = recent_traces(home / "traces", limit=3)
        assert [trace.trace_id for trace in listed] == made[:1:-1]

    def test_a_summary_names_the_root_and_counts_the_spans(self, exporting: Exporting, home: Path) -> None:
        a_request(exporting)
        (summary,) = recent_traces(home / "traces", limit=1)
        assert (summary.root, summary.num_spans, summary.status) == ("POST /v1/chat/completions", 3, "ok")
        assert summary.services == (names.GATEWAY,)

    def test_a_trace_is_named_by_what_was_asked_for_not_by_the_span_around_it(
        self, exporting: Exporting, home: Path
    ) -> None:
        with exporting.tracer.start_as_current_span("replica_handle_request gateway __call__") as around:
            context = around.get_span_context()
            traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
            request = begin_request(
                "POST", "/v1/completions", [(b"traceparent", traceparent.encode())], exporting=exporting
            )
            request.end(status=200)
        exporting.processors[0].force_flush(5000)
        (summary,) = recent_traces(home / "traces", limit=1)
        assert summary.root == "POST /v1/completions"

    def test_health_checks_and_scrapes_are_left_out(self, exporting: Exporting, home: Path) -> None:
        for route in names.WATCHING_ROUTES:
            begin_request("GET", route, [], exporting=exporting).end(status=200)
        asked = a_request(exporting)
        assert [trace.trace_id for trace in recent_traces(home / "traces", limit=10)] == [asked]

    def test_one_failed_span_makes_a_failed_trace(self, exporting: Exporting, home: Path) -> None:
        a_request(exporting, status=503)
        assert recent_traces(home / "traces", limit=1)[0].status == "error"

    def test_lines_cut_short_and_strange_files_are_left_out(self, exporting: Exporting, home: Path) -> None:
        trace_id = a_request(exporting)
        traces = home / "traces"
        whole = next(traces.iterdir()).read_text()
        (traces / "headroom-engine-1-a.jsonl").write_text(f'{whole[:100]}\n[]\n"x"\n{{"trace": 3}}\n\x00\n')
        assert [trace.trace_id for trace in recent_traces(traces, limit=10)] == [trace_id]

    def test_spans_of_two_processes_become_one_tree(self, exporting: Exporting, home: Path) -> None:
        request = begin_request("POST", "/v1/chat/completions", [], exporting=exporting)
        call = request.route("fast", requested_model="fast").call(names.Operation.CHAT, "mini")
        engine = setup.start(ExportSettings(otlp=None, directory=home / "traces", max_per_s=None), names.ENGINE)
        sent_on = [(key.encode(), value.encode()) for key, value in call.outgoing_headers().items()]
        begin_request("POST", "/engine", sent_on, exporting=engine).end(status=200)
        call.end()
        request.end(status=200)
        for each in (engine, exporting):
            each.processors[0].force_flush(5000)
        engine.provider.shutdown()
        spans = find_traces(home / "traces", request.trace_id)[request.trace_id]
        (root,) = (node for node in tree(spans) if node.span.name == "POST /v1/chat/completions")
        (inner,) = (node for node in tree(spans) if node.span.name == "chat mini")  # its route span never ended
        assert not root.children
        assert [child.span.service for child in inner.children] == [names.ENGINE]


class TestCommand:
    def test_it_lists_time_id_root_status_duration_and_spans(self, exporting: Exporting, home: Path) -> None:
        trace_id = a_request(exporting)
        output = show(home).output
        assert output.splitlines()[0].split() == ["time", "trace", "id", "root", "status", "duration", "spans"]
        row = output.splitlines()[1]
        assert trace_id in row
        assert row.split()[-1] == "3"

    def test_an_id_or_its_beginning_prints_the_tree_with_its_facts(self, exporting: Exporting, home: Path) -> None:
        trace_id = a_request(exporting, mode="creative")
        output = show(home, trace_id[:8]).output
        assert trace_id in output
        assert output.index("POST /v1/chat/completions") < output.index("route creative") < output.index("chat mini")
        for fact in ("status_code=200", "mode=creative", "cache=miss", "input_tokens=7", "output_tokens=3"):
            assert fact in output

    def test_json_is_for_programs(self, exporting: Exporting, home: Path) -> None:
        trace_id = a_request(exporting)
        assert json.loads(show(home, "--json").output)[0]["trace_id"] == trace_id
        shown = json.loads(show(home, "--json", trace_id).output)
        assert {span["name"] for span in shown["spans"]} == {"POST /v1/chat/completions", "route fast", "chat mini"}

    def test_without_traces_it_says_why_and_what_to_do(self, home: Path) -> None:
        error = show(home).exception
        assert isinstance(error, HeadroomError)
        assert str(home / "traces") in str(error)
        assert "tracing.keep_recent" in str(error)
        assert json.loads(show(home, "--json").output) == []

    def test_an_unknown_id_is_told_apart_from_no_traces(self, exporting: Exporting, home: Path) -> None:
        a_request(exporting)
        assert "begins with 'zz'" in str(show(home, "zz").exception)

    def test_an_id_that_fits_several_asks_for_more_digits(self, exporting: Exporting, home: Path) -> None:
        for _ in range(20):
            a_request(exporting)
        shared = {trace.trace_id[0] for trace in recent_traces(home / "traces", limit=20)}
        ambiguous = next(
            digit for digit in shared if len(find_traces(home / "traces", digit)) > 1
        )  # 20 ids over 16 first digits
        assert "more digits" in str(show(home, ambiguous).exception)

    def test_the_home_comes_from_the_environment(self, exporting: Exporting, home: Path) -> None:
        trace_id = a_request(exporting)
        assert trace_id in CliRunner().invoke(command, [], env={"HEADROOM_HOME": str(home)}).output
