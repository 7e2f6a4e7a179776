"""Samples and a clock that a test turns by hand, so that ten minutes of steady load are one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from serve_app.scaling.decision import Decision, Outcome
from serve_app.scaling.policy import Sample, ScalingPolicy
from serve_app.scaling.rules import Kind, Limits, ScalingSettings, Signal, Target

GATEWAY = Target(kind=Kind.GATEWAY)
MINI = Target(kind=Kind.ENGINE, model="mini")
TRAINERS = Target(kind=Kind.TRAINER)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
ROOM = ScalingSettings(limits={one.name: Limits(min_replicas=1, max_replicas=8) for one in (GATEWAY, MINI, TRAINERS)})
STEP_S = 5.0


def sample(target: Target, replicas: int = 2, *, configured: int = 2, **values: float) -> Sample:
    return replace(measured(target, values), num_replicas=replicas, configured=configured)


def measured(target: Target, values: Mapping[str, float]) -> Sample:
    """Of two replicas, as configured; by the words of the signals."""
    signals = {Signal(name): value for name, value in values.items()}
    return Sample(target=target, num_replicas=2, configured=2, values=signals)


@dataclass(slots=True)
class Feed:
    """A policy and the time; every decision is settled at once with `outcome`."""

    policy: ScalingPolicy = field(default_factory=lambda: ScalingPolicy(ROOM))
    now_s: float = 1000.0
    at: datetime = MIDNIGHT
    outcome: Outcome = Outcome.APPLIED
    decisions: list[Decision] = field(default_factory=list)

    def see(self, *samples: Sample) -> list[Decision]:
        seen = list(self.policy.saw(samples, now_s=self.now_s, at=self.at))
        for decision in seen:
            if decision.outcome is None:
                self.policy.settled(replace(decision, outcome=self.outcome), now_s=self.now_s)
        self.decisions += seen
        return seen

    def wait(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.at += timedelta(seconds=duration_s)

    def hold(self, seen: Sample, duration_s: float) -> list[Decision]:
        """What was decided while this sample came every five seconds, at both ends too."""
        decisions = self.see(seen)
        left_s = duration_s
        while left_s > 0:
            self.wait(min(STEP_S, left_s))
            left_s -= STEP_S
            decisions += self.see(seen)
        return decisions

    def moves(self) -> list[tuple[int, int]]:
        return [(one.from_replicas, one.to_replicas) for one in self.decisions if one.outcome is None]
