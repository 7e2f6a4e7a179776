"""Alert rules of jobs."""

from __future__ import annotations

from tracing import names
from tracing.names import Alert
from tracing.rules.rule import PrometheusRule, Severity

_WAIT_S = 600
"""Of our own choosing: row B10 gives trainers ten minutes before more are started."""

JOB_RULES = (
    PrometheusRule(
        name=Alert.JOB_WAIT_HIGH,
        expr=f"histogram_quantile(0.95, sum by (le, kind) (rate({names.JOB_WAIT.name}_bucket[15m]))) > {_WAIT_S}",
        for_s=300.0,
        severity=Severity.WARNING,
        summary="Jobs of kind {{ $labels.kind }} wait long",
        description="95 % of jobs of kind {{ $labels.kind }} wait up to {{ $value | humanizeDuration }}.",
    ),
)
