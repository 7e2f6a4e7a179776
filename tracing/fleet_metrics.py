"""Metrics of what keeps the fleet: polls of the watch, alerts, leases, objectives. Plain values in, no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tracing import names
from tracing.metrics import Labels, Recorder
from tracing.names import BurnWindow


class WatchMetrics:
    """Record where polls arrive, not where they are made: a watch that died must not take its last poll with it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._last_s: dict[Labels, float] = {}

    def polled(self, node: str, *, duration_s: float, num_failed: int, at_s: float) -> None:
        """A poll that was finished at `at_s`, Unix time; `num_failed` of its devices could not be read."""
        self._recorder.histogram(names.WATCH_POLL, node).observe(duration_s)
        self._recorder.counter(names.WATCH_POLL_ERRORS, node).inc(num_failed)
        self._last_s[(node,)] = at_s
        self._recorder.gauge(names.WATCH_LAST_POLL, node).set(at_s)

    def keep(self, nodes: Iterable[str]) -> None:
        """Only these nodes are watched from now on."""
        kept = {(node,) for node in nodes}
        self._last_s = {labels: at_s for labels, at_s in self._last_s.items() if labels in kept}
        self._recorder.replace(names.WATCH_LAST_POLL, self._last_s)


class AlertMetrics:
    """`rules` are all that can fire, with their severity; each is counted from 0."""

    def __init__(self, recorder: Recorder, rules: Iterable[tuple[str, str]]) -> None:
        self._recorder = recorder
        self._rules: tuple[Labels, ...] = tuple(rules)
        for labels in self._rules:
            recorder.counter(names.ALERTS_TRIGGERED, *labels)
        self.show({})

    def triggered(self, rule: str, severity: str) -> None:
        self._recorder.counter(names.ALERTS_TRIGGERED, rule, severity).inc()

    def show(self, active: Mapping[tuple[str, str], int]) -> None:
        """How many devices, or other things, each rule and severity holds for now; 0 for those left out."""
        none: dict[Labels, float] = dict.fromkeys(self._rules, 0.0)
        self._recorder.replace(names.ALERTS_ACTIVE, none | {labels: float(n) for labels, n in active.items()})


class LeaseMetrics:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def answered(self, result: str, *, duration_s: float) -> None:
        """`result`: granted, refused, invalid or error."""
        self._recorder.counter(names.LEASE_REQUESTS, result).inc()
        self._recorder.histogram(names.LEASE_HANDSHAKE, result).observe(duration_s)

    def show(self, by_state: Mapping[str, int]) -> None:
        self._recorder.replace(names.LEASES, {(state,): float(n) for state, n in by_state.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnSample:
    """One objective now. A rate is None where nothing was counted in its window, and has no series then."""

    objective: str
    long_rate: float | None
    short_rate: float | None
    budget_left: float


class ObjectiveMetrics:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def show(self, samples: Sequence[BurnSample]) -> None:
        rates: dict[Labels, float | None] = {}
        for one in samples:
            rates[one.objective, BurnWindow.LONG.value] = one.long_rate
            rates[one.objective, BurnWindow.SHORT.value] = one.short_rate
        known = {labels: rate for labels, rate in rates.items() if rate is not None}
        self._recorder.replace(names.OBJECTIVE_BURN, known)
        self._recorder.replace(names.OBJECTIVE_BUDGET_LEFT, {(one.objective,): one.budget_left for one in samples})
