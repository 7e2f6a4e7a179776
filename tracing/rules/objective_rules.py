"""The alert rule of objectives. Rates are worked out by the controller, which keeps the counts of a whole month."""

from __future__ import annotations

from tracing import names
from tracing.names import Alert, BurnWindow
from tracing.rules.rule import PrometheusRule, Severity


def objective_rules(*, burn_rate: float) -> tuple[PrometheusRule, ...]:
    """`burn_rate` is from where on both windows must burn: neither a blip nor an old wound does."""
    long, short = (f'{names.OBJECTIVE_BURN.name}{{window="{window}"}} >= {burn_rate!r}' for window in BurnWindow)
    return (
        PrometheusRule(
            name=Alert.OBJECTIVE_BURNING,
            expr=f"{long} and on (objective) {short}",
            for_s=0.0,
            severity=Severity.CRITICAL,
            summary="Objective {{ $labels.objective }} burns",
            description="The budget of {{ $labels.objective }} goes {{ $value | humanize }} times as fast as allowed.",
        ),
    )
