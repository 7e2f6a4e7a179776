"""Where spans go, read once from environment variables.

OpenTelemetry's standard variables decide about OTLP; `HEADROOM_TRACE_*` about local files. When neither asks
for anything, nothing is traced. Reads no other input and starts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_log = logging.getLogger(__name__)

TRACE_DIR = "HEADROOM_TRACE_DIR"
TRACE_KEEP = "HEADROOM_TRACE_KEEP"
TRACE_SAMPLE_RATIO = "HEADROOM_TRACE_SAMPLE_RATIO"
TRACE_MAX_PER_S = "HEADROOM_TRACE_MAX_PER_S"
NODE_ROLE = "HEADROOM_NODE_ROLE"
SERVE_EXPORTER = "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"
SERVE_RATIO = "RAY_SERVE_TRACING_SAMPLING_RATIO"

DEFAULT_KEEP_RECENT = 200
DEFAULT_MAX_PER_S = 20.0
"""Traces begun per second and process when only local files want them: at about 0.2 ms each, 0.4 % of a core."""


class Protocol(StrEnum):
    """Values of OTEL_EXPORTER_OTLP_PROTOCOL that are supported."""

    HTTP = "http/protobuf"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Otlp:
    """`endpoint` is what an exporter is given: for HTTP the full URL, path included."""

    protocol: Protocol
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """`otlp` None: nothing leaves the machine. `directory` None: no local files.

    `max_per_s` bounds the traces begun per second where only files want them; None without bound.
    """

    otlp: Otlp | None
    directory: Path | None
    keep_recent: int = DEFAULT_KEEP_RECENT
    sample_ratio: float = 1.0
    max_per_s: float | None = DEFAULT_MAX_PER_S
    node_role: str = "inference"

    @property
    def wanted(self) -> bool:
        return self.otlp is not None or self.directory is not None


def from_environment(env: Mapping[str, str]) -> ExportSettings:
    """Never raises: a value that cannot be read is logged and its default used, as OpenTelemetry asks."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ExportSettings(otlp=None, directory=None)
    otlp = _otlp(env)
    keep_recent = int(_number(env, TRACE_KEEP, DEFAULT_KEEP_RECENT, low=0, high=100_000))
    directory = env.get(TRACE_DIR, "").strip()
    return ExportSettings(
        otlp=otlp,
        directory=Path(directory) if directory and keep_recent > 0 else None,
        keep_recent=keep_recent,
        sample_ratio=_number(env, TRACE_SAMPLE_RATIO, 1.0, low=0.0, high=1.0),
        max_per_s=None if otlp else _number(env, TRACE_MAX_PER_S, DEFAULT_MAX_PER_S, low=0.0, high=1e9),
        node_role=env.get(NODE_ROLE, "inference"),
    )


def cluster_environment(
    env: Mapping[str, str], *, directory: Path, keep_recent: int, sample_ratio: float
) -> dict[str, str]:
    """Variables to set before Ray starts, so that every process of the cluster traces alike; {} for no tracing.

    `env` is the user's own environment: its standard OTLP variables are inherited and not repeated here.
    Serve reads its two variables in every proxy and replica (`ray/serve/_private/constants.py`, 2.60).
    """
    ours = {TRACE_KEEP: str(keep_recent), TRACE_SAMPLE_RATIO: str(sample_ratio)}
    if keep_recent > 0:
        ours[TRACE_DIR] = str(directory)
    if not from_environment({**env, **ours}).wanted:
        return {}
    return {**ours, SERVE_EXPORTER: "tracing.setup:serve_span_processors", SERVE_RATIO: str(sample_ratio)}


def _otlp(env: Mapping[str, str]) -> Otlp | None:
    """None unless the standard variables ask for OTLP: an endpoint is set, or OTEL_TRACES_EXPORTER names otlp."""
    exporters = {name.strip() for name in env.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()}
    for_traces = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    for_all = env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if exporters - {"otlp", "none"}:
        _log.warning(
            "OTEL_TRACES_EXPORTER names %s; supported are otlp and none.", sorted(exporters - {"otlp", "none"})
        )
    if "otlp" not in exporters and (exporters or not (for_traces or for_all)):
        return None
    protocol = _protocol(env)
    return Otlp(protocol=protocol, endpoint=for_traces or _base_endpoint(protocol, for_all))


def _base_endpoint(protocol: Protocol, for_all: str) -> str:
    """Source: OpenTelemetry protocol exporter specification, 'Endpoint URLs for OTLP/HTTP'."""
    if protocol is Protocol.GRPC:
        return for_all or "http://localhost:4317"
    return (for_all or "http://localhost:4318").rstrip("/") + "/v1/traces"


def _protocol(env: Mapping[str, str]) -> Protocol:
    value = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or Protocol.HTTP
    try:
        return Protocol(value.strip())
    except ValueError:
        _log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL is %r; supported are %s. Using http/protobuf.",
            value,
            [p.value for p in Protocol],
        )
        return Protocol.HTTP


def _number(env: Mapping[str, str], name: str, default: float, *, low: float, high: float) -> float:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if low <= value <= high:
        return value
    _log.warning("%s is %r; expected a number from %s to %s. Using %s.", name, text, low, high, default)
    return default
