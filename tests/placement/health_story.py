"""A fleet whose health is told as a story: polls at their times, and what they led to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from placement import health
from placement.health_events import AlertCleared, AlertFired, Effect, Event, Outcome, Probe
from placement.health_rules import RuleName
from placement.health_state import FleetHealth, HealthPolicy, Standing, health_of
from placement.inventory import DeviceHealth, DeviceKind
from placement.signals import DeviceSignals, Poll, RecoveryAction, Silence

A100 = "NVIDIA A100-SXM4-40GB"
H100 = "NVIDIA H100 80GB HBM3"
GIB = 1 << 30
DEVICE = "n/gpu-0"
E = TypeVar("E")


def names(count: int) -> list[str]:
    return [f"n/gpu-{index}" for index in range(count)]


def seen(device: str = DEVICE, **signals: Any) -> DeviceSignals:
    """A healthy, idle A100 but for what is given."""
    good = DeviceSignals(
        device=device,
        uuid=f"GPU-{device}",
        kind=DeviceKind.CUDA,
        product=A100,
        total_bytes=40 * GIB,
        used_bytes=0,
        temperature_c=40.0,
        slowdown_c=89.0,
        power_w=60.0,
        power_limit_w=400.0,
        ecc_corrected=0,
        ecc_uncorrected=0,
        throttle_reasons=frozenset(),
        row_remap_failed=False,
        recovery_action=RecoveryAction.NONE,
    )
    return replace(good, **signals)


def silent(device: str = DEVICE) -> Silence:
    return Silence(device=device, reason="no answer within 2 s")


class Story:
    """Keeps the fleet and all that came of it; `planned_bytes` are of every device."""

    def __init__(self, *devices: str, policy: HealthPolicy | None = None, planned_bytes: int = 0) -> None:
        self.policy = policy or HealthPolicy()
        self.planned_bytes = planned_bytes
        self.fleet = health.enroll(FleetHealth(), devices or (DEVICE,), now_s=0.0)
        self.events: list[Event] = []
        self.effects: list[Effect] = []

    def take(self, outcome: Outcome) -> Outcome:
        self.fleet = outcome.fleet
        self.events += outcome.events
        self.effects += outcome.effects
        return outcome

    def poll(self, now_s: float, *polls: Poll) -> Outcome:
        planned: Mapping[str, int] = {poll.device: self.planned_bytes for poll in polls}
        return self.take(health.observe(self.fleet, polls, planned_bytes=planned, now_s=now_s, policy=self.policy))

    def tick(self, now_s: float) -> Outcome:
        return self.take(health.tick(self.fleet, now_s=now_s, policy=self.policy))

    def goes_on(self, until_s: float, *polls: Poll, start_s: float = 0.0, every_s: float = 5.0) -> None:
        """The same polls again and again, both ends included, each followed by a tick."""
        for step in range(round((until_s - start_s) / every_s) + 1):
            self.poll(start_s + step * every_s, *polls)
            self.tick(start_s + step * every_s)

    def answer(self, now_s: float, *, has_passed: bool, device: str = DEVICE, number: int | None = None) -> Outcome:
        number = self.standing(device).num_probes if number is None else number
        return self.take(
            health.probed(self.fleet, device, number=number, has_passed=has_passed, now_s=now_s, policy=self.policy)
        )

    def restart(self, now_s: float) -> None:
        standings = [record.standing for record in self.fleet.records.values()]
        self.fleet = health.restored(standings, now_s=now_s)

    def standing(self, device: str = DEVICE) -> Standing:
        return self.fleet.records[device].standing

    def state(self, device: str = DEVICE) -> DeviceHealth:
        return health_of(self.standing(device), dry_run=self.policy.dry_run)

    def did(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def fired(self) -> list[RuleName]:
        return [event.alert.rule for event in self.events if isinstance(event, AlertFired)]

    @property
    def cleared(self) -> list[RuleName]:
        return [event.alert.rule for event in self.events if isinstance(event, AlertCleared)]

    def on_probation(self, now_s: float = 0.0) -> float:
        """Brings the quarantined device to its next probe by good polls, within a week; the time of it."""
        num_probes, week_s = len(self.did(Probe)), 7 * 86_400.0
        start_s = now_s
        while len(self.did(Probe)) == num_probes:
            assert now_s < start_s + week_s
            now_s += 5.0
            self.goes_on(now_s, seen(), start_s=now_s)
        return now_s
