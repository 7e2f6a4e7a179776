"""Health rules in the form of row D1 for Prometheus, made from the rules that the watch acts on.

Prometheus only tells; the watch decides within its poll. Where both look at the same value they use the same limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from tracing import names
from tracing.names import Alert
from tracing.rules.rule import PrometheusRule, Severity, duration

WHERE = "{{ $labels.device }} on {{ $labels.node }}"
_FAULTS = "|".join(reason for reason in names.THROTTLE_REASONS if reason not in ("power_cap", names.OTHER))
_REFERENCE = (
    f'({names.DEVICE_INFO.name}{{product=~".*A100.*"}} unless on (node, device) {names.DEVICE_POWER_LIMIT.name} < 400)'
)
"""Devices that the absolute limits are made for: an A100 at its full 400 W. Source: row D1; design §8."""


class Signal(StrEnum):
    TEMPERATURE = "temperature"
    POWER = "power"
    ECC_CORRECTED = "ecc_corrected"
    ECC_UNCORRECTED = "ecc_uncorrected"
    FAULT_CLOCKS = "fault_clocks"
    """1 while clocks are held down by a fault."""
    MEMORY = "memory"
    """Used of total, and only while more is used than planned and leased."""


_COUNTED = frozenset({Signal.ECC_CORRECTED, Signal.ECC_UNCORRECTED})


class RelativeTo(StrEnum):
    """A device's own limit, read from the device. A device that does not tell it has the absolute threshold."""

    SLOWDOWN = "slowdown"
    """Temperature at which it slows itself down."""
    POWER_LIMIT = "power_limit"
    """Enforced power limit. Without one, power is judged on reference devices only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """`threshold` on reference devices, `ratio` of `relative_to` on all others; both None: `threshold` everywhere."""

    name: Alert
    signal: Signal
    threshold: float
    for_s: float
    severity: Severity
    relative_to: RelativeTo | None = None
    ratio: float | None = None
    is_strict: bool = False
    """Whether the limit itself is still good."""
    window_s: float = 0.0
    """In which errors are counted; 0 for levels."""

    def __post_init__(self) -> None:
        if (self.relative_to is None) != (self.ratio is None):
            raise ValueError(f"{self.name}: relative_to and ratio go together, got {self.relative_to}, {self.ratio}")
        if (self.window_s > 0) != (self.signal in _COUNTED):
            raise ValueError(f"{self.name}: {self.signal} and a window of {self.window_s} s do not go together")


def health_rule(rule: DeviceRule) -> PrometheusRule:
    summary, description = _TEXTS[rule.signal]
    return PrometheusRule(
        name=rule.name,
        expr=_expr(rule),
        for_s=rule.for_s,
        severity=rule.severity,
        summary=summary,
        description=description,
    )


def _expr(rule: DeviceRule) -> str:
    over = ">" if rule.is_strict else ">="
    match rule.signal:
        case Signal.TEMPERATURE:
            return f"{names.DEVICE_TEMPERATURE.name} {over} {_limit(rule, names.DEVICE_TEMPERATURE.name)}"
        case Signal.POWER:
            return f"{names.DEVICE_POWER.name} {over} {_limit(rule, names.DEVICE_POWER.name)}"
        case Signal.ECC_CORRECTED:
            return _errors("corrected", rule, over)
        case Signal.ECC_UNCORRECTED:
            return _errors("uncorrected", rule, over)
        case Signal.FAULT_CLOCKS:
            active = f'{names.DEVICE_THROTTLE_ACTIVE.name}{{reason=~"{_FAULTS}"}}'
            return f"max by (node, device) ({active}) {over} {rule.threshold!r}"
        case Signal.MEMORY:
            return _above_plan(rule.threshold, over)
    assert_never(rule.signal)


def _limit(rule: DeviceRule, level: str) -> str:
    """The limit of each device: by its own limit where that counts, else the threshold."""
    if rule.relative_to is None:
        return repr(rule.threshold)
    own = _OWN_LIMITS[rule.relative_to].name
    absolute = f"{level} * 0 + {rule.threshold!r}"
    if rule.relative_to is RelativeTo.POWER_LIMIT:
        absolute = f"({absolute} and on (node, device) {_REFERENCE})"
    return f"(({rule.ratio!r} * {own} unless on (node, device) {_REFERENCE}) or {absolute})"


def _errors(kind: str, rule: DeviceRule, over: str) -> str:
    counted = f'{names.DEVICE_ECC_ERRORS.name}{{type="{kind}"}}[{duration(rule.window_s)}]'
    return f"increase({counted}) {over} {rule.threshold!r}"


def _above_plan(ratio: float, over: str) -> str:
    """Memory that is full because it was planned so is well used."""
    used, total, planned, leased = (
        f'{names.DEVICE_MEMORY.name}{{state="{state}"}}' for state in ("used", "total", "planned", "leased")
    )
    return (
        f"{used} {over} ignoring (state) {ratio!r} * {total}"
        f" and {used} > ignoring (state) ({planned} + ignoring (state) {leased})"
    )


_OWN_LIMITS = {RelativeTo.SLOWDOWN: names.DEVICE_SLOWDOWN, RelativeTo.POWER_LIMIT: names.DEVICE_POWER_LIMIT}

_TEXTS = {
    Signal.TEMPERATURE: ("Too hot: " + WHERE, WHERE + " is at {{ $value }} °C."),
    Signal.POWER: ("Too much power: " + WHERE, WHERE + " draws {{ $value }} W."),
    Signal.ECC_CORRECTED: ("Corrected ECC errors: " + WHERE, WHERE + " corrected many memory errors of late."),
    Signal.ECC_UNCORRECTED: ("Uncorrectable ECC error: " + WHERE, WHERE + " lost data in memory."),
    Signal.FAULT_CLOCKS: ("Clocks held down: " + WHERE, WHERE + " is slowed down by heat, power brake or hardware."),
    Signal.MEMORY: (
        "Memory above plan: " + WHERE,
        WHERE + " uses {{ $value | humanize1024 }}B, more than is planned and leased there.",
    ),
}
