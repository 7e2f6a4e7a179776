"""Alert rules of workers, nodes and rollouts. Some wait for metrics that nothing records yet (`names.Later`)."""

from __future__ import annotations

from tracing import names
from tracing.names import Alert, Later
from tracing.rules.rule import PrometheusRule, Severity

LATER_RULES = (
    PrometheusRule(
        name=Alert.WORKER_DEAD,
        expr=f"{Later.WORKER_UP} == 0",
        for_s=30.0,
        severity=Severity.CRITICAL,
        summary="A {{ $labels.kind }} worker is dead",
        description="A worker of kind {{ $labels.kind }} does not answer.",
    ),
    PrometheusRule(
        name=Alert.NODE_UNREACHABLE,
        expr=f"{Later.CONNECTION_UP} == 0",
        for_s=30.0,
        severity=Severity.CRITICAL,
        summary="{{ $labels.peer }} cannot be reached",
        description="The connection to {{ $labels.peer }} is lost.",
    ),
    PrometheusRule(
        name=Alert.ROLLBACK_TRIGGERED,
        expr=f'increase({names.ROLLOUTS.name}{{result="rolled_back"}}[10m]) > 0',
        for_s=0.0,
        severity=Severity.WARNING,
        summary="A rollout was rolled back",
        description="New weights were taken back within the last ten minutes; the old ones answer.",
    ),
    PrometheusRule(
        name=Alert.ROLLOUT_REGRESSION,
        expr=f'increase({names.ROLLOUTS.name}{{result="regressed"}}[1h]) > 0',
        for_s=0.0,
        severity=Severity.WARNING,
        summary="Deployed weights answer worse",
        description="The scheduled test set scored below what these weights were deployed with.",
    ),
    PrometheusRule(
        name=Alert.CHECKPOINT_DAMAGED,
        expr=f'{names.ALERTS_ACTIVE.name}{{rule="{Alert.CHECKPOINT_DAMAGED}"}} > 0',
        for_s=0.0,
        severity=Severity.CRITICAL,
        summary="A checkpoint that serves or is pinned was changed",
        description="Checkpoints of {{ $value }} models are not what they were when the baseline was taken.",
    ),
)
