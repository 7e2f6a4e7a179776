"""What calls new weights back, by how much it must be wrong, and how soon the old ones must answer again. Pure.

Source: row C7. Where it names a trigger without a time (worker dead, memory, temperature), the time is ours and that
of the trigger most like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class TriggerKind(StrEnum):
    DEVICE_FAILURE = "device_failure"
    LOAD_FAILURE = "load_failure"
    NODE_UNREACHABLE = "node_unreachable"
    WORKER_DEAD = "worker_dead"
    MEMORY_CRITICAL = "memory_critical"
    MEMORY_HIGH = "memory_high"
    TEMPERATURE_HIGH = "temperature_high"
    QUALITY_WORSE = "quality_worse"
    LATENCY_WORSE = "latency_worse"
    ERRORS_WORSE = "errors_worse"
    CHECK_FAILED = "check_failed"


class TriggerSeverity(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRule:
    """`limit` is what a figure must exceed, None where the fact itself is enough.

    The return must be done `within_s` of the moment it is seen. `observing_only`: it counts once the weights serve.
    """

    severity: TriggerSeverity
    within_s: float
    limit: float | None = None
    observing_only: bool = False


TRIGGERS: Final[Mapping[TriggerKind, TriggerRule]] = {
    TriggerKind.DEVICE_FAILURE: TriggerRule(severity=TriggerSeverity.CRITICAL, within_s=120),
    TriggerKind.MEMORY_CRITICAL: TriggerRule(severity=TriggerSeverity.CRITICAL, within_s=120, limit=0.98),
    TriggerKind.TEMPERATURE_HIGH: TriggerRule(severity=TriggerSeverity.CRITICAL, within_s=120, limit=90.0),
    TriggerKind.LOAD_FAILURE: TriggerRule(severity=TriggerSeverity.HIGH, within_s=300),
    TriggerKind.NODE_UNREACHABLE: TriggerRule(severity=TriggerSeverity.HIGH, within_s=300),
    TriggerKind.WORKER_DEAD: TriggerRule(severity=TriggerSeverity.HIGH, within_s=300),
    TriggerKind.MEMORY_HIGH: TriggerRule(severity=TriggerSeverity.HIGH, within_s=300, limit=0.95, observing_only=True),
    TriggerKind.CHECK_FAILED: TriggerRule(severity=TriggerSeverity.HIGH, within_s=300, observing_only=True),
    TriggerKind.QUALITY_WORSE: TriggerRule(severity=TriggerSeverity.MEDIUM, within_s=900, limit=0.20),
    TriggerKind.LATENCY_WORSE: TriggerRule(severity=TriggerSeverity.MEDIUM, within_s=900, limit=0.20),
    TriggerKind.ERRORS_WORSE: TriggerRule(severity=TriggerSeverity.MEDIUM, within_s=900, limit=0.05),
}
"""The most urgent first. `errors_worse` is ours: row B3 allows 5 % of answers to fail; so is
`check_failed`, for row C9 names no time."""

MIN_REQUESTS: Final = 30
"""Fewer answers of one version say nothing about its latency or errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    kind: TriggerKind
    reason: str

    @property
    def rule(self) -> TriggerRule:
        return TRIGGERS[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is wrong now with what one model runs on. Ratios of used to total memory, and °C, per device."""

    failed_devices: tuple[str, ...] = ()
    failed_loads: tuple[str, ...] = ()
    unreachable_nodes: tuple[str, ...] = ()
    dead_workers: tuple[str, ...] = ()
    memory_ratio: Mapping[str, float] | None = None
    temperature_c: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Answers that one version gave lately. `latency_s` is their 95th percentile; None when nobody measured it.

    `accuracy` is that of the test set through the live API, 0 to 1; None when it was not asked.
    """

    num_requests: int = 0
    num_errors: int = 0
    latency_s: float | None = None
    accuracy: float | None = None


class Passed(StrEnum):
    """What became of one check; a skip is neither good nor bad."""

    PASS = "PASS"  # noqa: S105  # no password
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFound:
    """One check of the service after the switch. `measured` is for eyes, `reason` why it failed or was skipped."""

    check: str
    passed: Passed
    measured: str = ""
    reason: str = ""


def health_triggers(signals: Signals, *, is_observing: bool) -> tuple[Trigger, ...]:
    """The most urgent first."""
    return tuple(one for one in _health(signals) if is_observing or not one.rule.observing_only)


def answer_triggers(before: Traffic, now: Traffic) -> tuple[Trigger, ...]:
    """How the new weights answer, against the old ones. Nothing where either was not measured enough."""
    found = (quality_trigger(before.accuracy, now.accuracy), _latency(before, now), _errors(before, now))
    return tuple(one for one in found if one is not None)


def quality_trigger(expected: float | None, found: float | None) -> Trigger | None:
    """Accuracies, 0 to 1."""
    limit = TRIGGERS[TriggerKind.QUALITY_WORSE].limit or 0.0
    if expected is None or found is None or found >= expected * (1 - limit):
        return None
    reason = f"The test set scores {found:.1%}, expected {expected:.1%}; more than {limit:.0%} worse is too much."
    return Trigger(kind=TriggerKind.QUALITY_WORSE, reason=reason)


def check_triggers(found: Iterable[CheckFound]) -> tuple[Trigger, ...]:
    """One for each check that failed; what was skipped says nothing."""
    return tuple(
        Trigger(kind=TriggerKind.CHECK_FAILED, reason=f"The check {one.check} failed after the switch: {one.reason}")
        for one in found
        if one.passed is Passed.FAIL
    )


def _health(signals: Signals) -> Iterator[Trigger]:
    for device in signals.failed_devices:
        yield Trigger(kind=TriggerKind.DEVICE_FAILURE, reason=f"Device {device} failed.")
    yield from _above(TriggerKind.MEMORY_CRITICAL, "Memory of", signals.memory_ratio, "{:.1%}")
    yield from _above(TriggerKind.TEMPERATURE_HIGH, "Temperature of", signals.temperature_c, "{:.0f} °C")
    for replica in signals.failed_loads:
        yield Trigger(kind=TriggerKind.LOAD_FAILURE, reason=f"{replica} could not load its weights.")
    for node in signals.unreachable_nodes:
        yield Trigger(kind=TriggerKind.NODE_UNREACHABLE, reason=f"Node {node} cannot be reached.")
    for worker in signals.dead_workers:
        yield Trigger(kind=TriggerKind.WORKER_DEAD, reason=f"Worker {worker} is dead.")
    yield from _above(TriggerKind.MEMORY_HIGH, "Memory of", signals.memory_ratio, "{:.1%}")


def _above(kind: TriggerKind, what: str, figures: Mapping[str, float] | None, form: str) -> Iterator[Trigger]:
    limit = TRIGGERS[kind].limit
    assert limit is not None
    for device, figure in sorted((figures or {}).items()):
        if figure > limit:
            reason = f"{what} {device} is at {form.format(figure)}, the limit is {form.format(limit)}."
            yield Trigger(kind=kind, reason=reason)


def _latency(before: Traffic, now: Traffic) -> Trigger | None:
    limit = TRIGGERS[TriggerKind.LATENCY_WORSE].limit or 0.0
    if before.latency_s is None or now.latency_s is None or min(before.num_requests, now.num_requests) < MIN_REQUESTS:
        return None
    if now.latency_s <= before.latency_s * (1 + limit):
        return None
    reason = f"95 % of answers take up to {now.latency_s:.3f} s, with the old weights {before.latency_s:.3f} s."
    return Trigger(kind=TriggerKind.LATENCY_WORSE, reason=reason)


def _errors(before: Traffic, now: Traffic) -> Trigger | None:
    """More than is allowed, and more than the old weights had: an outage of both is not the new ones' fault."""
    limit = TRIGGERS[TriggerKind.ERRORS_WORSE].limit or 0.0
    if now.num_requests < MIN_REQUESTS:
        return None
    share, share_before = now.num_errors / now.num_requests, before.num_errors / max(1, before.num_requests)
    if share <= max(limit, share_before):
        return None
    reason = f"{share:.1%} of {now.num_requests} answers failed, with the old weights {share_before:.1%}."
    return Trigger(kind=TriggerKind.ERRORS_WORSE, reason=reason)
