"""Which models rest, and which may be put to rest: said by people, by idleness and by need. Pure.

Says nothing of how an engine ends or starts; the applier carries that out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.config.settings import ModelSettings
from tracing import names
from tracing.metrics import Delta


class RestKind(StrEnum):
    ASLEEP = "asleep"
    """Its memory is given back; the next request wakes it."""
    UNLOADED = "unloaded"
    """Somebody took it away: it stays away until somebody loads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    kind: RestKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleState:
    """What survives a restart. `pins` holds what was said at run time; it goes before the file's `pinned`."""

    resting: Mapping[str, Rest] = field(default_factory=dict)
    pins: Mapping[str, bool] = field(default_factory=dict)


class Lifecycle:
    """The one owner of rests, pins and times of last use. Times are seconds of the caller's monotonic clock."""

    def __init__(self, state: LifecycleState, *, now_s: float) -> None:
        self.state = state
        self._began_s = now_s
        self._used_s: dict[str, float] = {}
        self._totals: dict[tuple[str, str], float] = {}

    @property
    def resting(self) -> Mapping[str, Rest]:
        return self.state.resting

    def rest(self, resting: Mapping[str, Rest]) -> None:
        self.state = LifecycleState(resting=dict(resting), pins=self.state.pins)

    def pin(self, model: str, *, pinned: bool) -> None:
        self.state = LifecycleState(resting=self.state.resting, pins={**self.state.pins, model: pinned})

    def is_pinned(self, model: ModelSettings) -> bool:
        return self.state.pins.get(model.id, model.pinned)

    def used(self, model: str, *, now_s: float) -> None:
        self._used_s[model] = now_s

    def saw(self, deltas: Iterable[Delta], *, now_s: float) -> None:
        """What gateways report: a counted request, or one in flight, is a use of its model."""
        for delta in deltas:
            self._saw_counters(delta, now_s)
            for (metric, labels), value in delta.gauges.items():
                if metric == names.REQUESTS_IN_FLIGHT.name and value:
                    self.used(labels[0], now_s=now_s)

    def idle_s(self, model: str, *, now_s: float) -> float:
        """Since its last use, or since this controller began, which knows of no earlier ones."""
        return now_s - self._used_s.get(model, self._began_s)

    def may_sleep(self, models: Iterable[ModelSettings], *, now_s: float, idle_after_s: float) -> list[ModelSettings]:
        """Models that may make room, first those to go first: lowest priority, then longest idle."""
        idle = [
            model
            for model in models
            if model.id not in self.resting
            and not self.is_pinned(model)
            and self.idle_s(model.id, now_s=now_s) >= idle_after_s
        ]
        return sorted(idle, key=lambda model: (model.priority, -self.idle_s(model.id, now_s=now_s), model.id))

    def _saw_counters(self, delta: Delta, now_s: float) -> None:
        totals: dict[str, float] = {}
        for (metric, labels), value in delta.counters.items():
            if metric == names.INFERENCE_REQUESTS.name:
                totals[labels[1]] = totals.get(labels[1], 0.0) + value
        for model, total in totals.items():
            if total > self._totals.get((delta.source, model), 0.0):
                self._totals[(delta.source, model)] = total
                self.used(model, now_s=now_s)


def awake(models: Iterable[ModelSettings], resting: Collection[str]) -> tuple[ModelSettings, ...]:
    return tuple(model for model in models if model.id not in resting)
