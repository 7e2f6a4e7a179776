"""The health rules that the watch acts on, in the form that Prometheus' rules are made of."""

from __future__ import annotations

from typing import Final

from placement.health_rules import DRIVER_RULES, Comparison, HealthRule, Signal
from placement.health_state import HealthPolicy
from tracing.names import Alert
from tracing.rules import health_rules as told
from tracing.rules.rule import Severity

_DRIVERS: Final = frozenset(rule.name for rule in DRIVER_RULES)
"""Prometheus has rules of its own for these: they have no limit that anybody could change."""
_SIGNALS: Final = {
    Signal.TEMPERATURE_C: told.Signal.TEMPERATURE,
    Signal.POWER_W: told.Signal.POWER,
    Signal.ECC_CORRECTED: told.Signal.ECC_CORRECTED,
    Signal.ECC_UNCORRECTED: told.Signal.ECC_UNCORRECTED,
    Signal.FAULT_CLOCKS: told.Signal.FAULT_CLOCKS,
    Signal.MEMORY_RATIO: told.Signal.MEMORY,
}
_OWN_LIMITS: Final = {
    Signal.TEMPERATURE_C: told.RelativeTo.SLOWDOWN,
    Signal.POWER_W: told.RelativeTo.POWER_LIMIT,
}


def told_rules(policy: HealthPolicy) -> tuple[told.DeviceRule, ...]:
    """What of `policy` cluster.yaml can change, in its order; rules that are switched off are left out."""
    return tuple(_told(rule) for rule in policy.active_rules if rule.name not in _DRIVERS)


def _told(rule: HealthRule) -> told.DeviceRule:
    return told.DeviceRule(
        name=Alert(rule.name),
        signal=_SIGNALS[rule.signal],
        threshold=rule.threshold,
        for_s=rule.hold_s,
        severity=Severity(rule.severity),
        relative_to=None if rule.ratio is None else _OWN_LIMITS[rule.signal],
        ratio=rule.ratio,
        is_strict=rule.comparison is Comparison.ABOVE,
        window_s=rule.window_s,
    )
