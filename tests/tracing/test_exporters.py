"""Spans arrive where the settings say, and nowhere else; a dead receiver is nobody's problem."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.tracing.otlp_receiver import grpc_receiver, http_receiver
from tracing import names, setup
from tracing.batching import BatchProcessor
from tracing.files import FileExporter
from tracing.metrics import Recorder
from tracing.settings import ExportSettings, Otlp, Protocol, from_environment
from tracing.setup import Exporting, service_resource
from tracing.spans import begin_request

CANARY = "my secret prompt 4711"


@contextmanager
def tracing_to(settings: ExportSettings, service: str = names.GATEWAY) -> Iterator[Exporting]:
    exporting = setup.start(settings, service)
    try:
        yield exporting
    finally:
        exporting.provider.shutdown()


def a_request(exporting: Exporting) -> str:
    request = begin_request("POST", "/v1/chat/completions", [], exporting=exporting)
    route = request.route("fast", requested_model="fast")
    call = route.call(names.Operation.CHAT, "mini")
    call.answered(input_tokens=3, output_tokens=5)
    call.end()
    route.end()
    request.end(status=200)
    return request.trace_id


def run_python(code: str, **env: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "HEADROOM_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **env},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestOtlp:
    @pytest.mark.parametrize(("protocol", "serve"), [(Protocol.HTTP, http_receiver), (Protocol.GRPC, grpc_receiver)])
    def test_every_span_of_a_request_arrives_as_one_trace(self, protocol: Protocol, serve: object) -> None:
        with serve() as receiver:  # type: ignore[operator]
            path = "/v1/traces" if protocol is Protocol.HTTP else ""
            otlp = Otlp(protocol=protocol, endpoint=receiver.endpoint + path)
            with tracing_to(ExportSettings(otlp=otlp, directory=None, max_per_s=None)) as exporting:
                trace_id = a_request(exporting)
                spans = receiver.wait_for_names("POST /v1/chat/completions", "route fast", "chat mini")
        assert {span.trace_id for span in spans} == {trace_id}
        assert {span.service for span in spans} == {names.GATEWAY}
        assert all(span.resource[names.NODE_ROLE] == "inference" for span in spans)

    def test_the_standard_headers_variable_is_sent_along(self) -> None:
        with http_receiver() as receiver:
            run_python(
                "from tracing import setup, spans\n"
                "setup.configure('headroom-gateway')\n"
                "spans.begin_request('GET', '/health', []).end(status=200)\n",
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
                OTEL_EXPORTER_OTLP_HEADERS="x-key=secret",
            )
            receiver.wait_for_names("GET /health")
        assert receiver.headers[0]["x-key"] == "secret"

    def test_a_dead_receiver_fails_no_request_and_ends_in_time(self, free_port: int) -> None:
        dead = Otlp(protocol=Protocol.HTTP, endpoint=f"http://127.0.0.1:{free_port}/v1/traces")
        with tracing_to(ExportSettings(otlp=dead, directory=None, max_per_s=None)) as exporting:
            for _ in range(50):
                a_request(exporting)
            worker = next(t for t in threading.enumerate() if t.name == "spans-otlp")
        worker.join(timeout=5.0)
        assert not worker.is_alive()
        assert exporting.processors[0].num_failed == 150

    def test_a_dead_receiver_keeps_no_span_from_the_files(self, free_port: int, tmp_path: Path) -> None:
        dead = Otlp(protocol=Protocol.HTTP, endpoint=f"http://127.0.0.1:{free_port}/v1/traces")
        with tracing_to(ExportSettings(otlp=dead, directory=tmp_path, max_per_s=None)) as exporting:
            a_request(exporting)
            assert exporting.processors[1].force_flush(5000)
            assert len(lines(tmp_path)) == 3


class TestQueue:
    def test_a_full_queue_drops_and_counts_and_never_waits(self) -> None:
        stuck = StuckExporter()
        resource = service_resource(names.GATEWAY, "inference")
        processor = BatchProcessor(stuck, name="otlp", resource=lambda: resource, max_queue=10, max_batch=1)
        with tracing_to(ExportSettings(otlp=None, directory=None, max_per_s=None)) as exporting:
            exporting.provider.add_span_processor(processor)
            a_request(exporting)
            assert stuck.busy.wait(10)
            for _ in range(20):
                a_request(exporting)
            stuck.release.set()
        assert processor.num_dropped >= 50
        assert processor.num_dropped + stuck.num_spans == 63

    def test_drops_become_a_metric_once(self, tmp_path: Path) -> None:
        code = (
            "from tracing import names, setup, spans\n"
            "from tracing.metrics import Recorder\n"
            "setup.configure('headroom-gateway')\n"
            "setup.exporting().processors[0].num_dropped = 7\n"
            "recorder = Recorder('test')\n"
            "setup.record_drops(recorder); setup.record_drops(recorder)\n"
            "print(recorder.counter(names.TRACE_SPANS_DROPPED, 'file', 'queue_full').value)\n"
        )
        assert run_python(code, HEADROOM_TRACE_DIR=str(tmp_path)) == "7.0\n"

    def test_without_tracing_there_are_no_drops(self) -> None:
        recorder = Recorder("test")
        setup.record_drops(recorder)
        assert not recorder.drain()[0].counters


class TestNothingAsked:
    def test_no_provider_exists_and_no_exporter_is_loaded(self) -> None:
        code = (
            "import sys\n"
            "from opentelemetry import trace\n"
            "from tracing import setup, spans\n"
            "setup.configure('headroom-gateway')\n"
            "spans.begin_request('POST', '/v1/chat/completions', []).end(status=200)\n"
            "print(type(trace.get_tracer_provider()).__name__, setup.enabled(),"
            " any('exporter.otlp' in name for name in sys.modules))\n"
        )
        assert run_python(code) == "ProxyTracerProvider False False\n"

    @pytest.mark.parametrize(
        "env",
        [
            {},
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
            {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
            {"OTEL_SDK_DISABLED": "true", "HEADROOM_TRACE_DIR": "traces"},
            {"HEADROOM_TRACE_DIR": "traces", "HEADROOM_TRACE_KEEP": "0"},
            {"HEADROOM_TRACE_DIR": ""},
        ],
    )
    def test_these_variables_ask_for_nothing(self, env: dict[str, str]) -> None:
        assert not from_environment(env).wanted


class TestServe:
    def test_serves_own_set_up_ends_with_our_provider_and_our_service_name(self) -> None:
        """Exactly what a Serve replica does, by Serve's own function, then what our deployment does."""
        code = (
            "from opentelemetry import trace\n"
            "from ray.serve._private import tracing_utils\n"
            "from ray.serve._private.common import ServeComponentType\n"
            "assert tracing_utils.setup_tracing('app_Gateway', 'abc', ServeComponentType.REPLICA)\n"
            "from tracing import setup, spans\n"
            "setup.configure('headroom-gateway')\n"
            "assert trace.get_tracer_provider() is setup.exporting().provider\n"
            "headers = [(b'traceparent', b'00-' + b'a' * 32 + b'-' + b'b' * 16 + b'-01')]\n"
            "carried = {'traceparent': headers[0][1].decode()}\n"
            "context = tracing_utils.extract_propagated_context(carried)\n"
            "with tracing_utils.TraceContextManager('replica_handle_request', trace_context=context):\n"
            "    spans.begin_request('POST', '/v1/chat/completions', headers).end(status=200)\n"
        )
        with http_receiver() as receiver:
            run_python(
                code,
                RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH="tracing.setup:serve_span_processors",
                RAY_SERVE_TRACING_SAMPLING_RATIO="1.0",
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            )
            spans = receiver.wait_for_names("replica_handle_request", "POST /v1/chat/completions")
        by_name = {span.name: span for span in spans}
        assert {span.trace_id for span in spans} == {"a" * 32}
        assert by_name["replica_handle_request"].parent_id == "b" * 16
        assert by_name["POST /v1/chat/completions"].parent_id == by_name["replica_handle_request"].span_id
        assert {span.service for span in spans} == {names.GATEWAY}


class TestPrompts:
    def test_an_error_that_quotes_a_prompt_leaves_without_the_quote(self, tmp_path: Path) -> None:
        with http_receiver() as receiver:
            otlp = Otlp(protocol=Protocol.HTTP, endpoint=receiver.endpoint + "/v1/traces")
            with tracing_to(ExportSettings(otlp=otlp, directory=tmp_path, max_per_s=None)) as exporting:
                span = exporting.tracer.start_span("replica_handle_request")
                span.record_exception(ValueError(CANARY))
                span.end()
                receiver.wait_for_names("replica_handle_request")
        assert CANARY.encode() not in b"".join(receiver.requests)
        assert CANARY not in "".join(lines(tmp_path))
        assert receiver.spans[0].events == (("exception", {"exception.type": "ValueError"}),)


class TestFiles:
    def test_one_to_two_times_the_wanted_number_of_traces_is_kept(self, tmp_path: Path) -> None:
        with tracing_to(ExportSettings(otlp=None, directory=tmp_path, keep_recent=10, max_per_s=None)) as exporting:
            made = [a_request(exporting) for _ in range(95)]
        kept = {json.loads(line)["trace"] for line in lines(tmp_path)}
        assert set(made[-10:]) <= kept
        assert len(kept) <= 20

    def test_a_file_ends_at_its_size(self, tmp_path: Path) -> None:
        resource = service_resource(names.ENGINE, "inference")
        exporter = FileExporter(tmp_path, keep_recent=10**6, max_bytes=2000)
        processor = BatchProcessor(exporter, name="file", resource=lambda: resource)
        with tracing_to(ExportSettings(otlp=None, directory=None, max_per_s=None)) as exporting:
            exporting.provider.add_span_processor(processor)
            for _ in range(50):
                a_request(exporting)
        sizes = [path.stat().st_size for path in tmp_path.iterdir()]
        assert len(sizes) == 2
        assert all(size < 3000 for size in sizes)

    def test_files_are_for_their_owner_only(self, tmp_path: Path) -> None:
        with tracing_to(ExportSettings(otlp=None, directory=tmp_path / "traces", max_per_s=None)) as exporting:
            a_request(exporting)
        (path,) = (tmp_path / "traces").iterdir()
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0

    def test_files_of_processes_long_gone_do_not_pile_up(self, tmp_path: Path) -> None:
        for number in range(100):
            (tmp_path / f"headroom-engine-{number}-0.jsonl").touch()
        with tracing_to(ExportSettings(otlp=None, directory=tmp_path, max_per_s=None)) as exporting:
            a_request(exporting)
        assert len(list(tmp_path.iterdir())) == 64
        assert len(lines(tmp_path)) == 3

    def test_a_directory_that_cannot_be_written_costs_the_spans_only(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        settings = ExportSettings(otlp=None, directory=tmp_path / "file" / "traces", max_per_s=None)
        with tracing_to(settings) as exporting:
            a_request(exporting)
        assert exporting.processors[0].num_failed == 3

    def test_a_forked_child_writes_a_file_of_its_own(self, tmp_path: Path) -> None:
        code = (
            "import os\n"
            "from tracing import setup, spans\n"
            "setup.configure('headroom-engine')\n"
            "spans.begin_request('GET', '/parent', []).end(status=200)\n"
            "setup.flush()\n"
            "child = os.fork()\n"
            "spans.begin_request('GET', '/child' if child == 0 else '/after', []).end(status=200)\n"
            "setup.flush()\n"
            "os._exit(0) if child == 0 else os.waitpid(child, 0)\n"
        )
        run_python(code, HEADROOM_TRACE_DIR=str(tmp_path))
        assert len(list(tmp_path.iterdir())) == 2
        assert sorted(json.loads(line)["name"] for line in lines(tmp_path)) == [
            "GET /after",
            "GET /child",
            "GET /parent",
        ]


class StuckExporter(SpanExporter):
    """Blocks in its first export until released."""

    def __init__(self) -> None:
        self.busy = threading.Event()
        self.release = threading.Event()
        self.num_spans = 0

    def export(self, spans: object) -> SpanExportResult:
        assert isinstance(spans, list)
        assert all(isinstance(span, ReadableSpan) for span in spans)
        self.busy.set()
        assert self.release.wait(30)
        self.num_spans += len(spans)
        return SpanExportResult.SUCCESS


def lines(directory: Path) -> list[str]:
    return [line for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
