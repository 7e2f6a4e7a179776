"""Alert rules of devices and their watch, beside those of row D1."""

from __future__ import annotations

from dataclasses import replace

from tracing import names
from tracing.names import Alert
from tracing.rules.health_rules import WHERE, DeviceRule, Signal, health_rule
from tracing.rules.rule import PrometheusRule, Severity

_RISK = 0.8
"""Row D4: above it a device is emptied before it fails, where that is asked for."""
_POLL_MISSING_S = 30
_QUARANTINED_SHARE = 0.10
"""Of the fleet: where the brake on quarantine holds."""
_HEADROOM_HELD_S = 300.0


def device_rules(*, headroom: float) -> tuple[PrometheusRule, ...]:
    """`headroom` is the fraction of every device to keep free, from cluster.yaml."""
    return (_headroom_low(headroom), *_LIMITS, *_BROKEN, *_FLEET)


def _headroom_low(headroom: float) -> PrometheusRule:
    return PrometheusRule(
        name=Alert.HEADROOM_LOW,
        expr=f"{names.DEVICE_HEADROOM.name} < {headroom!r}",
        for_s=_HEADROOM_HELD_S,
        severity=Severity.CRITICAL,
        summary="Headroom gone: " + WHERE,
        description=f"{WHERE} has {{{{ $value | humanizePercentage }}}} free of the {headroom:.0%} to be kept.",
    )


def _memory(name: Alert, threshold: float, severity: Severity) -> PrometheusRule:
    rule = DeviceRule(
        name=name, signal=Signal.MEMORY, threshold=threshold, is_strict=True, for_s=60.0, severity=severity
    )
    return health_rule(rule)


_LIMITS = (
    _memory(Alert.DEVICE_MEMORY_HIGH, 0.9, Severity.WARNING),
    replace(_memory(Alert.DEVICE_MEMORY_CRITICAL, 0.95, Severity.CRITICAL), for_s=30.0),
    PrometheusRule(
        name=Alert.DEVICE_TEMPERATURE_HIGH,
        expr=f"{names.DEVICE_TEMPERATURE.name} > 85",
        for_s=60.0,
        severity=Severity.CRITICAL,
        summary="Above 85 °C: " + WHERE,
        description=WHERE + " is at {{ $value }} °C, whatever its type stands.",
    ),
)

_BROKEN = (
    PrometheusRule(
        name=Alert.DEVICE_LOST,
        expr=f"{names.DEVICE_UP.name} == 0",
        for_s=0.0,
        severity=Severity.CRITICAL,
        summary="Device lost: " + WHERE,
        description=WHERE + " could not be read in the last poll.",
    ),
    PrometheusRule(
        name=Alert.XID_FATAL,
        expr=f'increase({names.DEVICE_XID_ERRORS.name}{{xid=~"{"|".join(names.FATAL_XIDS)}"}}[300s]) > 0',
        for_s=0.0,
        severity=Severity.CRITICAL,
        summary="XID {{ $labels.xid }}: " + WHERE,
        description=WHERE + " reported XID {{ $labels.xid }}, a fault of the device.",
    ),
    PrometheusRule(
        name=Alert.ROW_REMAP_FAILURE,
        expr=f"{names.DEVICE_ROW_REMAP_FAILURE.name} == 1",
        for_s=0.0,
        severity=Severity.CRITICAL,
        summary="Memory row cannot be remapped: " + WHERE,
        description=WHERE + " has a broken row of memory and no spare one.",
    ),
    PrometheusRule(
        name=Alert.RECOVERY_ADVISED,
        expr=f"{names.DEVICE_RECOVERY_ACTION.name} > 0",
        for_s=0.0,
        severity=Severity.CRITICAL,
        summary="The driver asks for a recovery: " + WHERE,
        description=WHERE + " advises action {{ $value }} (1 reset, 2 reboot, 3 drain peer-to-peer, 4 drain, reset).",
    ),
    PrometheusRule(
        name=Alert.FAILURE_PREDICTED,
        expr=f"{names.DEVICE_FAILURE_RISK.name} > {_RISK}",
        for_s=0.0,
        severity=Severity.WARNING,
        summary="Failure predicted: " + WHERE,
        description=WHERE + " fails within {{ $labels.horizon }} with a risk of {{ $value | humanizePercentage }}.",
    ),
)

_QUARANTINED = f'{names.DEVICE_HEALTH_STATE.name}{{state="quarantined"}}'

_FLEET = (
    PrometheusRule(
        name=Alert.QUARANTINED_SHARE_HIGH,
        # One device is always allowed: in a small fleet it is more than the share.
        expr=f"sum({_QUARANTINED}) / count({_QUARANTINED}) > {_QUARANTINED_SHARE} and sum({_QUARANTINED}) > 1",
        for_s=0.0,
        severity=Severity.CRITICAL,
        summary="Many devices in quarantine",
        description="{{ $value | humanizePercentage }} of all devices are in quarantine: look for one cause.",
    ),
    PrometheusRule(
        name=Alert.WATCH_STALE,
        expr=f"time() - {names.WATCH_LAST_POLL.name} > {_POLL_MISSING_S}",
        for_s=0.0,
        severity=Severity.CRITICAL,
        summary="Nobody watches {{ $labels.node }}",
        description="The last poll of {{ $labels.node }} was {{ $value | humanizeDuration }} ago.",
    ),
)
