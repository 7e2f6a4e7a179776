"""An OTLP receiver in this process: real protobuf over HTTP and over gRPC, on a free loopback port.

`with http_receiver() as receiver:` … `receiver.wait_for(lambda spans: …)`; `receiver.endpoint` is the base address.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

_KINDS = {0: "unspecified", 1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """Ids in lower-case hex; `parent_id` is empty for a root."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    is_error: bool
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    resource: Mapping[str, Any]

    @property
    def service(self) -> str:
        return str(self.resource.get("service.name", ""))


class Receiver:
    """What arrived so far. `requests` holds the raw protobuf bytes, `headers` those of each request."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.requests: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._spans: list[ReceivedSpan] = []
        self._changed = threading.Condition()

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        with self._changed:
            return tuple(self._spans)

    def take(self, request: ExportTraceServiceRequest, headers: Mapping[str, str]) -> None:
        with self._changed:
            self.requests.append(request.SerializeToString())
            self.headers.append({key.lower(): value for key, value in headers.items()})
            self._spans.extend(_spans(request))
            self._changed.notify_all()

    def wait_for(
        self, enough: Callable[[tuple[ReceivedSpan, ...]], bool], *, deadline_s: float = 20.0
    ) -> tuple[ReceivedSpan, ...]:
        """The spans once `enough` is satisfied. Raises AssertionError after the deadline."""
        with self._changed:
            found = self._changed.wait_for(lambda: enough(tuple(self._spans)), timeout=deadline_s)
            assert found, f"not within {deadline_s} s; got {[(span.service, span.name) for span in self._spans]}"
            return tuple(self._spans)

    def wait_for_names(self, *names: str, deadline_s: float = 20.0) -> tuple[ReceivedSpan, ...]:
        wanted = set(names)
        return self.wait_for(lambda spans: wanted <= {span.name for span in spans}, deadline_s=deadline_s)


@contextmanager
def http_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            known = self.path == "/v1/traces"
            if known:
                receiver.take(ExportTraceServiceRequest.FromString(body), dict(self.headers))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if known else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    receiver.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def grpc_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Service(TraceServiceServicer):
        def Export(  # noqa: N802 - the name in the protocol
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
            receiver.take(request, metadata)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]  # generated code
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    receiver.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield receiver
    finally:
        server.stop(grace=None).wait()


def _spans(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield ReceivedSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=_KINDS[span.kind],
                    is_error=span.status.code == 2,
                    attributes=_attributes(span.attributes),
                    events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
                    resource=resource,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    return getattr(value, kind) if kind else None
