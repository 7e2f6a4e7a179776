"""Alert rules of requests, modes, cache and models, made for the modes and models of one cluster.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracing import names
from tracing.names import Alert
from tracing.rules.rule import PrometheusRule, Severity

_MAX_QUEUED = 50
_ERROR_SHARE = 0.05
_FIRST_TOKEN_S = 2.5
"""Row B3's target for a whole answer in the fastest mode; the first token must not use that up alone."""
_MIN_LOOKUPS = 100
"""Row B5: below so many requests a hit rate says little."""
_HELD_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeLimits:
    """`hit_target` is None for a mode whose cache has none."""

    mode: str
    latency_target_s: float
    hit_target: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """`load_s` must be a bucket of `names.MODEL_LOAD`."""

    model: str
    load_s: float


def service_rules(modes: Sequence[ModeLimits], models: Sequence[ModelLimits]) -> tuple[PrometheusRule, ...]:
    """Raises: ValueError for a load limit that no bucket counts."""
    targets = [(limits.mode, limits.hit_target) for limits in modes if limits.hit_target is not None]
    made = (_latency(modes), _hit_rate(targets) if targets else None, _loads(models) if models else None)
    return (*_REQUESTS, *(rule for rule in made if rule is not None), _REPLICAS)


def _latency(modes: Iterable[ModeLimits]) -> PrometheusRule:
    """One alert for all modes, each held to its own target."""
    duration = names.INFERENCE_REQUEST_DURATION.name
    return PrometheusRule(
        name=Alert.MODE_LATENCY_HIGH,
        expr=" or ".join(
            f"{_p95(duration, 'mode', where=_is('mode', limits.mode))} > {limits.latency_target_s!r}"
            for limits in modes
        ),
        for_s=_HELD_S,
        severity=Severity.WARNING,
        summary="Mode {{ $labels.mode }} is too slow",
        description="95 % of requests in {{ $labels.mode }} take up to {{ $value | humanizeDuration }}.",
    )


def _hit_rate(targets: Iterable[tuple[str, float]]) -> PrometheusRule:
    parts = []
    exact = f'cache_type!="{names.SEMANTIC_CACHE}"'
    for mode, target in targets:
        hits, misses = (
            f"sum by (mode) (increase({metric.name}{{{_is('mode', mode)},{exact}}}[1h]))"
            for metric in (names.CACHE_HITS, names.CACHE_MISSES)
        )
        parts.append(f"({hits} / ({hits} + {misses}) < {target!r} and {hits} + {misses} >= {_MIN_LOOKUPS})")
    return PrometheusRule(
        name=Alert.CACHE_HIT_RATE_LOW,
        expr=" or ".join(parts),
        for_s=_HELD_S,
        severity=Severity.INFO,
        summary="Cache of mode {{ $labels.mode }} helps little",
        description="{{ $value | humanizePercentage }} of the last hour's look-ups in {{ $labels.mode }} were hits.",
    )


def _loads(models: Iterable[ModelLimits]) -> PrometheusRule:
    """Loads of the last quarter hour that took longer than the model's limit; failed ones are not slow."""
    parts = []
    for limits in models:
        if limits.load_s not in names.MODEL_LOAD.buckets:
            limit, buckets = f"{limits.load_s} s for '{limits.model}'", names.MODEL_LOAD.buckets
            raise ValueError(f"A load limit of {limit} cannot be counted. Use one of {buckets}.")
        where = f'{_is("model", limits.model)},outcome="success"'
        within = f'{names.MODEL_LOAD.name}_bucket{{{where},le="{limits.load_s}"}}'
        loads = f"sum by (model) (increase({names.MODEL_LOAD.name}_count{{{where}}}[15m]))"
        parts.append(f"{loads} - sum by (model) (increase({within}[15m])) > 0.5")
    return PrometheusRule(
        name=Alert.MODEL_LOAD_SLOW,
        expr=" or ".join(parts),
        for_s=0.0,
        severity=Severity.WARNING,
        summary="Model {{ $labels.model }} loads slowly",
        description="A replica of {{ $labels.model }} took longer to load than the limit of its size.",
    )


def _p95(histogram: str, label: str, *, where: str = "") -> str:
    rate = f"rate({histogram}_bucket{{{where}}}[5m])" if where else f"rate({histogram}_bucket[5m])"
    return f"histogram_quantile(0.95, sum by (le, {label}) ({rate}))"


def _is(label: str, value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{label}="{quoted}"'


_INFERENCE = names.INFERENCE_REQUESTS.name

_REQUESTS = (
    PrometheusRule(
        name=Alert.QUEUE_BUILDUP,
        expr=f"sum by (model) ({names.REQUESTS_QUEUED.name}) > {_MAX_QUEUED}",
        for_s=120.0,
        severity=Severity.WARNING,
        summary="Requests queue for {{ $labels.model }}",
        description="{{ $value }} requests wait for {{ $labels.model }}.",
    ),
    PrometheusRule(
        name=Alert.ERROR_RATE_HIGH,
        # Rejected requests are the caller's, cancelled ones nobody's.
        expr=(
            f'sum by (mode) (rate({_INFERENCE}{{outcome=~"error|timeout"}}[5m]))'
            f' / sum by (mode) (rate({_INFERENCE}{{outcome=~"success|error|timeout"}}[5m])) > {_ERROR_SHARE}'
        ),
        for_s=_HELD_S,
        severity=Severity.CRITICAL,
        summary="Requests fail in mode {{ $labels.mode }}",
        description="{{ $value | humanizePercentage }} of requests in {{ $labels.mode }} fail.",
    ),
    PrometheusRule(
        name=Alert.TIME_TO_FIRST_TOKEN_HIGH,
        expr=f"{_p95(names.TIME_TO_FIRST_TOKEN.name, 'model')} > {_FIRST_TOKEN_S}",
        for_s=_HELD_S,
        severity=Severity.WARNING,
        summary="First tokens of {{ $labels.model }} come late",
        description="95 % of streams of {{ $labels.model }} begin within {{ $value | humanizeDuration }} only.",
    ),
)

_REPLICAS = PrometheusRule(
    name=Alert.REPLICAS_UNAVAILABLE,
    # A sleeping replica wakes on demand.
    expr=(
        f'sum by (model) ({names.MODEL_REPLICAS.name}{{state=~"ready|sleeping"}})'
        f' < sum by (model) ({names.MODEL_REPLICAS.name}{{state="desired"}})'
    ),
    for_s=_HELD_S,
    severity=Severity.CRITICAL,
    summary="Replicas of {{ $labels.model }} are missing",
    description="{{ $value }} replicas of {{ $labels.model }} can answer, fewer than cluster.yaml asks for.",
)
