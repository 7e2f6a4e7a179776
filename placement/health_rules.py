"""Health rules as data, and what each of them reads from one poll. No state: how long a value held is `health_hold`.

Two sets: `DEFAULT_RULES` are the spec's (row D1, in its order) and may be changed in cluster.yaml; `DRIVER_RULES`
follow what the driver itself says is broken, and always hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from placement.signals import DeviceSignals, RecoveryAction


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Action(StrEnum):
    """What follows when a rule fires; the alert is told in every case."""

    NOTIFY = "notify"
    THROTTLE = "throttle"
    """Fewer requests in flight on the device."""
    PREEMPT = "preempt"
    """What runs there goes back to its queue."""
    QUARANTINE = "quarantine"
    """Emptied; back only after a rest and a passed probe."""


class RuleName(StrEnum):
    THERMAL_WARNING = "THERMAL_WARNING"
    THERMAL_CRITICAL = "THERMAL_CRITICAL"
    POWER_SPIKE = "POWER_SPIKE"
    POWER_CRITICAL = "POWER_CRITICAL"
    ECC_ERRORS_SPIKE = "ECC_ERRORS_SPIKE"
    ECC_UNCORRECTABLE = "ECC_UNCORRECTABLE"
    THROTTLING = "THROTTLING"
    MEMORY_PRESSURE = "MEMORY_PRESSURE"
    XID_FATAL = "XidFatal"
    ROW_REMAP_FAILURE = "RowRemapFailure"
    RECOVERY_ADVISED = "RecoveryAdvised"
    DEVICE_LOST = "DeviceLost"
    """A poll that failed. No rule: it needs no threshold."""
    WATCH_STALE = "WatchStale"
    """No poll at all for too long. No rule either."""
    QUARANTINED_SHARE_HIGH = "QuarantinedShareHigh"
    """The storm brake holds; of the whole fleet."""
    ROLLOUT_REGRESSION = "RolloutRegression"
    """Of a model: what serves answers worse than when it was compared."""
    CHECKPOINT_DAMAGED = "CheckpointDamaged"
    """Of a model: a checkpoint that serves or is pinned is not what it was."""


MODEL_RULES = frozenset({RuleName.ROLLOUT_REGRESSION, RuleName.CHECKPOINT_DAMAGED})
"""What is found of a model's weights, not of a device."""


class Signal(StrEnum):
    TEMPERATURE_C = "temperature_c"
    POWER_W = "power_w"
    ECC_CORRECTED = "ecc_corrected"
    """New errors within the rule's window."""
    ECC_UNCORRECTED = "ecc_uncorrected"
    """New errors within the rule's window."""
    FATAL_XIDS = "fatal_xids"
    """Events within the rule's window."""
    FAULT_CLOCKS = "fault_clocks"
    """1 while clocks are held down by a fault, else 0."""
    MEMORY_RATIO = "memory_ratio"
    """Used of total bytes, 0 to 1; 0 while no more is used than was planned."""
    ROW_REMAP_FAILED = "row_remap_failed"
    RECOVERY_ADVISED = "recovery_advised"

    @property
    def is_counted(self) -> bool:
        """Whether it is a number of new events within a window, not a level."""
        return self in (self.ECC_CORRECTED, self.ECC_UNCORRECTED, self.FATAL_XIDS)

    @property
    def is_relative(self) -> bool:
        """Whether its limit follows the device's own limits."""
        return self in (self.TEMPERATURE_C, self.POWER_W)


class Comparison(StrEnum):
    AT_LEAST = ">="
    ABOVE = ">"


CLEAR_RATIO = 0.95
"""A fired rule clears below this part of its limit, so that a value at the limit does not flap."""

FATAL_XIDS = frozenset({48, 63, 64, 74, 79, 94, 95, 119, 120})
"""ECC, row remapping, NVLink, off the bus, contained and not, GSP. Source: NVIDIA's XID catalogue; design §8."""

PROGRAM_XIDS = frozenset({13, 31, 43})
"""The program's own fault: never a reason to act on the device. Every XID in neither set is counted, not acted on."""

REFERENCE_PRODUCT = "A100"
REFERENCE_POWER_LIMIT_W = 400.0
REFERENCE_SLOWDOWN_C = 89.0
"""At which an A100 (SXM) slows itself down; 85 °C is its highest operating temperature. Source: `nvidia-smi -q`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRule:
    """`threshold` is the limit on an A100 of 400 W; `ratio` that on any other device, as part of its own limit."""

    name: RuleName
    signal: Signal
    threshold: float
    hold_s: float
    """How long the value must stay beyond the limit before the rule fires, and below it before it clears."""
    severity: Severity
    action: Action
    comparison: Comparison = Comparison.AT_LEAST
    ratio: float | None = None
    """Of the enforced power limit, or of the slow-down temperature. None where the signal has no such limit."""
    window_s: float = 0.0
    """In which events are counted; 0 for levels."""
    enabled: bool = True

    def limit(self, signals: DeviceSignals) -> float | None:
        """The limit on this device; None where it cannot be judged.

        A device that does not tell its slow-down temperature is judged by the A100's figure; without a power limit
        power is not judged, because 450 W is danger for one product and idle talk for another.
        """
        if self.ratio is None or _is_reference(signals):
            return self.threshold
        if self.signal is Signal.TEMPERATURE_C:
            return self.threshold if signals.slowdown_c is None else self.ratio * signals.slowdown_c
        return None if signals.power_limit_w is None else self.ratio * signals.power_limit_w

    def is_beyond(self, value: float, limit: float) -> bool:
        return value > limit if self.comparison is Comparison.ABOVE else value >= limit


def reading(signal: Signal, signals: DeviceSignals, *, planned_bytes: int) -> float | None:
    """The level of `signal`, None where this poll does not tell. Counted signals are not read here."""
    match signal:
        case Signal.TEMPERATURE_C:
            return signals.temperature_c
        case Signal.POWER_W:
            return signals.power_w
        case Signal.FAULT_CLOCKS:
            reasons = signals.throttle_reasons
            return None if reasons is None else float(any(reason.is_fault for reason in reasons))
        case Signal.MEMORY_RATIO:
            return _memory_ratio(signals, planned_bytes)
        case Signal.ROW_REMAP_FAILED:
            return None if signals.row_remap_failed is None else float(signals.row_remap_failed)
        case Signal.RECOVERY_ADVISED:
            advised = signals.recovery_action
            return None if advised is None else float(advised is not RecoveryAction.NONE)
        case Signal.ECC_CORRECTED | Signal.ECC_UNCORRECTED | Signal.FATAL_XIDS:
            raise AssertionError(f"{signal} is counted, not read")
    assert_never(signal)


def fatal_xids(signals: DeviceSignals) -> tuple[int, ...]:
    return tuple(xid for xid in signals.xids if xid in FATAL_XIDS)


def _memory_ratio(signals: DeviceSignals, planned_bytes: int) -> float | None:
    if signals.total_bytes <= 0:
        return None
    return signals.used_bytes / signals.total_bytes if signals.used_bytes > planned_bytes else 0.0


def _is_reference(signals: DeviceSignals) -> bool:
    """An A100 at its full limit; one that was sold or set lower is judged by what it has."""
    limit_w = signals.power_limit_w
    return REFERENCE_PRODUCT in signals.product and (limit_w is None or limit_w >= REFERENCE_POWER_LIMIT_W)


DEFAULT_RULES = (
    HealthRule(
        name=RuleName.THERMAL_WARNING,
        signal=Signal.TEMPERATURE_C,
        threshold=80.0,
        ratio=80.0 / REFERENCE_SLOWDOWN_C,
        hold_s=60.0,
        severity=Severity.WARNING,
        action=Action.NOTIFY,
    ),
    HealthRule(
        name=RuleName.THERMAL_CRITICAL,
        signal=Signal.TEMPERATURE_C,
        comparison=Comparison.ABOVE,
        threshold=85.0,
        ratio=85.0 / REFERENCE_SLOWDOWN_C,
        hold_s=30.0,
        severity=Severity.CRITICAL,
        action=Action.THROTTLE,
    ),
    HealthRule(
        name=RuleName.POWER_SPIKE,
        signal=Signal.POWER_W,
        comparison=Comparison.ABOVE,
        threshold=400.0,
        ratio=400.0 / REFERENCE_POWER_LIMIT_W,
        hold_s=45.0,
        severity=Severity.WARNING,
        action=Action.NOTIFY,
    ),
    HealthRule(
        name=RuleName.POWER_CRITICAL,
        signal=Signal.POWER_W,
        threshold=450.0,
        ratio=450.0 / REFERENCE_POWER_LIMIT_W,
        hold_s=20.0,
        severity=Severity.CRITICAL,
        action=Action.PREEMPT,
    ),
    HealthRule(
        name=RuleName.ECC_ERRORS_SPIKE,
        signal=Signal.ECC_CORRECTED,
        threshold=10.0,
        hold_s=0.0,
        window_s=300.0,
        severity=Severity.WARNING,
        action=Action.NOTIFY,
    ),
    HealthRule(
        name=RuleName.ECC_UNCORRECTABLE,
        signal=Signal.ECC_UNCORRECTED,
        threshold=1.0,
        hold_s=0.0,
        window_s=300.0,
        severity=Severity.CRITICAL,
        action=Action.QUARANTINE,
    ),
    HealthRule(
        name=RuleName.THROTTLING,
        signal=Signal.FAULT_CLOCKS,
        threshold=1.0,
        hold_s=30.0,
        severity=Severity.WARNING,
        action=Action.NOTIFY,
    ),
    HealthRule(
        name=RuleName.MEMORY_PRESSURE,
        signal=Signal.MEMORY_RATIO,
        threshold=0.90,
        hold_s=60.0,
        severity=Severity.WARNING,
        action=Action.NOTIFY,
    ),
)
"""Thresholds, durations and actions are the spec's (D1); severities, and the window of ECC_UNCORRECTABLE, are ours."""


def _driver_rule(name: RuleName, signal: Signal, *, window_s: float = 0.0) -> HealthRule:
    return HealthRule(
        name=name,
        signal=signal,
        threshold=1.0,
        hold_s=0.0,
        window_s=window_s,
        severity=Severity.CRITICAL,
        action=Action.QUARANTINE,
    )


DRIVER_RULES = (
    _driver_rule(RuleName.XID_FATAL, Signal.FATAL_XIDS, window_s=300.0),
    _driver_rule(RuleName.ROW_REMAP_FAILURE, Signal.ROW_REMAP_FAILED),
    _driver_rule(RuleName.RECOVERY_ADVISED, Signal.RECOVERY_ADVISED),
)
