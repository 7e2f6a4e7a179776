"""One tracer provider per process, made only when something wants spans.

`configure` is what a process of ours calls; Ray Serve calls `serve_span_processors` in its proxies and
replicas before any code of ours runs. Both lead to the same provider, whoever comes first. Owning it (instead
of adopting Serve's) is what gives every span, Serve's and vLLM's too, our sampler, limits and resource.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import Tracer

from tracing import names
from tracing.batching import BatchProcessor
from tracing.files import FileExporter
from tracing.metrics import Recorder
from tracing.sampling import Bounded, Budget, request_sampler, root_sampler
from tracing.settings import ExportSettings, Otlp, Protocol, from_environment

FILE_DELAY_S = 0.25
OTLP_DELAY_S = 1.0
_LIMITS = SpanLimits(max_attributes=64, max_events=32, max_links=32, max_attribute_length=1024)
EXPORTER_LOGS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
)
_INSTANCE = uuid.uuid4().hex


@dataclass(slots=True)
class Exporting:
    """What this process traces with. `resource` is replaced when the service's name becomes known."""

    provider: TracerProvider
    tracer: Tracer
    processors: tuple[BatchProcessor, ...]
    budget: Budget
    from_callers: Bounded
    resource: Resource
    node_role: str
    reported_drops: dict[tuple[str, str], int] = field(default_factory=dict)

    def name_service(self, service: str) -> None:
        self.resource = service_resource(service, self.node_role)
        self.from_callers.active = service == names.GATEWAY


class _Process:
    """The one mutable thing here: what this process traces with, once something wanted spans."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.exporting: Exporting | None = None


_process = _Process()


def configure(service_name: str, *, settings: ExportSettings | None = None) -> None:
    """Trace this process as `service_name`, if `settings` (None: the environment's) want it. May be called again."""
    exporting = _ensure(settings)
    if exporting is not None:
        exporting.name_service(service_name)


def exporting() -> Exporting | None:
    """None while this process traces nothing."""
    return _process.exporting


def enabled() -> bool:
    return _process.exporting is not None


def serve_span_processors() -> list[SpanProcessor]:
    """For RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH: puts our provider in place before Serve sets its own.

    Serve then finds one set, adds the processors returned here to it (none: ours has its own), and keeps it.
    Source: `ray/serve/_private/tracing_utils.py`, `setup_tracing`, 2.60.
    """
    _ensure(None)
    return []


def flush(timeout_s: float = 2.0) -> bool:
    """True when every span ended so far was handed to its exporter in time. Blocks: not for an event loop."""
    active = _process.exporting
    return active is None or all(processor.force_flush(int(timeout_s * 1000)) for processor in active.processors)


def record_drops(recorder: Recorder) -> None:
    """Adds the spans lost since the last call to `headroom_trace_spans_dropped_total`."""
    active = _process.exporting
    if active is None:
        return
    for processor in active.processors:
        for reason, total in (("queue_full", processor.num_dropped), ("export_failed", processor.num_failed)):
            key = (processor.name, reason)
            recorder.counter(names.TRACE_SPANS_DROPPED, *key).inc(total - active.reported_drops.get(key, 0))
            active.reported_drops[key] = total


def start(settings: ExportSettings, service: str) -> Exporting:
    """A provider with its exporters, not yet the process's own. End it with `provider.shutdown()`."""
    budget = Budget(settings.max_per_s)
    sampler, from_callers = request_sampler(root_sampler(os.environ, settings.sample_ratio), budget)
    resource = service_resource(service, settings.node_role)
    provider = TracerProvider(sampler=sampler, resource=resource, span_limits=_LIMITS)
    started = Exporting(
        provider=provider,
        tracer=provider.get_tracer("headroom", product_version()),
        processors=(),
        budget=budget,
        from_callers=from_callers,
        resource=resource,
        node_role=settings.node_role,
    )
    started.processors = _processors(settings, lambda: started.resource)
    for processor in started.processors:
        provider.add_span_processor(processor)
    started.name_service(service)
    return started


def service_resource(service: str, node_role: str) -> Resource:
    """Beside OTEL_RESOURCE_ATTRIBUTES, which `Resource.create` reads."""
    return Resource.create(
        {
            "service.name": service,
            "service.version": product_version(),
            "service.instance.id": _INSTANCE,
            names.NODE_ROLE: node_role,
        }
    )


def product_version() -> str:
    try:
        return importlib.metadata.version("headroom")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _ensure(settings: ExportSettings | None) -> Exporting | None:
    with _process.lock:
        if _process.exporting is None:
            wanted = settings or from_environment(os.environ)
            if wanted.wanted:
                _process.exporting = start(wanted, "headroom")
                trace.set_tracer_provider(_process.exporting.provider)
                _quieten()
        return _process.exporting


def _processors(settings: ExportSettings, resource: Callable[[], Resource]) -> tuple[BatchProcessor, ...]:
    made = []
    if settings.otlp is not None:
        exporter = otlp_exporter(settings.otlp)
        made.append(BatchProcessor(exporter, name="otlp", resource=resource, delay_s=OTLP_DELAY_S))
    if settings.directory is not None:
        files = FileExporter(settings.directory, keep_recent=settings.keep_recent)
        made.append(BatchProcessor(files, name="file", resource=resource, delay_s=FILE_DELAY_S))
    return tuple(made)


def otlp_exporter(otlp: Otlp) -> SpanExporter:
    """Headers, compression, certificates and time-out are read by the exporter from the standard variables."""
    if otlp.protocol is Protocol.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=otlp.endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(endpoint=otlp.endpoint)


class _Repeated(logging.Filter):
    """Lets one record through per minute: a dead receiver is worth a line, not a flood."""

    def __init__(self, every_s: float = 60.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() < self._next_s:
            return False
        self._next_s = time.monotonic() + self._every_s
        return True


def _not_overriding(record: logging.LogRecord) -> bool:
    """Serve and vLLM each try to set a provider of their own after ours; that they cannot is meant."""
    return not record.getMessage().startswith("Overriding of current TracerProvider")


def _quieten() -> None:
    logging.getLogger("opentelemetry.trace").addFilter(_not_overriding)
    for name in EXPORTER_LOGS:
        logging.getLogger(name).addFilter(_Repeated())
