"""What comes of polls in the controller: written down, told, acted on, and the same again after a restart."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from placement.health_rules import DEFAULT_RULES, RuleName
from placement.health_state import Alert, Cordon
from placement.inventory import DeviceHealth, Inventory
from placement.signals import Poll, Silence
from serve_app.config.settings import HealthSettings, Settings
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.health_monitor import FleetFacts, HealthMonitor, HealthRecords
from serve_app.fleet.alerts import AlertEntry, AlertHistory, Callbacks
from serve_app.fleet.health_store import HealthStore
from serve_app.fleet.probe import ProbeResult
from serve_app.fleet.watches import NodePolls
from serve_app.gateway.standalone import standalone_settings
from serve_app.ops.objective_counts import ObjectiveCounts
from tests.placement.builders import fleet
from tests.placement.health_story import seen

AT_ONCE = tuple(replace(rule, hold_s=0.0) for rule in DEFAULT_RULES)
HURRIED = HealthSettings(rules=AT_ONCE, rest_s=0.0)
TEN = fleet("n: 10x40GiB")
FIRST = "n/gpu-0"


@dataclass
class Link:
    """What watches and wardens answer; nothing of it is real."""

    polls: tuple[Poll, ...] = ()
    passes: bool = True
    probed: list[str] = field(default_factory=list)

    @property
    def watches(self) -> Link:
        return self

    async def poll(self, inventory: Inventory) -> tuple[NodePolls, ...]:
        return (NodePolls(node="n", polls=self.polls, by_backup=False, duration_s=0.0),)

    async def probe(self, device: str, uuid: str, *, timeout_s: float) -> ProbeResult:
        self.probed.append(device)
        return ProbeResult(has_passed=self.passes, reason="")


@dataclass
class Stage:
    """A monitor over ten devices; a second one on the same records is a controller that was started again."""

    db: sqlite3.Connection
    link: Link = field(default_factory=Link)
    health: HealthSettings = HURRIED
    holds: frozenset[str] = frozenset()
    told: list[AlertEntry] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    works: list[Coroutine[Any, Any, None]] = field(default_factory=list)

    def monitor(self) -> HealthMonitor:
        callbacks = Callbacks()
        callbacks.add(self.told.append)
        return HealthMonitor(
            settings=self.settings,
            fleet=cast("FleetLink", self.link),
            records=self.records(),
            callbacks=callbacks,
            facts=lambda: FleetFacts(inventory=TEN, planned_bytes={}, holds=self.holds),
            on_polls=lambda _: None,
            on_change=lambda: None,
            on_alert=self.alerts.append,
            spawn=self.works.append,
        )

    def records(self) -> HealthRecords:
        return HealthRecords(
            standings=HealthStore(self.db),
            alerts=AlertHistory(self.db, max_kept=100),
            objectives=ObjectiveCounts(self.db),
        )

    def settings(self) -> Settings:
        return replace(standalone_settings(["m"]), health=self.health)

    def polled(self, monitor: HealthMonitor, *polls: Poll) -> None:
        self.link.polls = polls
        asyncio.run(monitor._poll())

    def entry(self, rule: RuleName) -> AlertEntry:
        (entry,) = self.records().alerts.page(rule=rule)
        return entry


@pytest.fixture
def stage() -> Stage:
    return Stage(sqlite3.connect(":memory:", isolation_level=None))


class TestAlerts:
    def test_are_written_down_and_told_to_whoever_asked(self, stage: Stage) -> None:
        stage.polled(stage.monitor(), seen(FIRST, temperature_c=86.0))
        assert {entry.rule for entry in stage.told} == {RuleName.THERMAL_WARNING, RuleName.THERMAL_CRITICAL}
        assert {alert.rule for alert in stage.alerts} == {entry.rule for entry in stage.told}
        assert stage.entry(RuleName.THERMAL_CRITICAL).device == FIRST

    def test_are_told_again_when_they_clear(self, stage: Stage) -> None:
        monitor = stage.monitor()
        stage.polled(monitor, seen(FIRST, temperature_c=86.0))
        stage.polled(monitor, seen(FIRST, temperature_c=40.0))
        assert stage.entry(RuleName.THERMAL_CRITICAL).cleared_at_s is not None
        assert stage.told[-1].cleared_at_s is not None

    def test_that_ended_while_nobody_looked_are_closed_at_the_next_start(self, stage: Stage) -> None:
        alert = Alert(
            rule=RuleName.THERMAL_WARNING,
            device=FIRST,
            severity=AT_ONCE[0].severity,
            action=AT_ONCE[0].action,
            message="warm",
            since_s=0.0,
        )
        stage.records().alerts.fired(alert, at_s=1.0, dry_run=False)
        stage.monitor()
        assert stage.entry(RuleName.THERMAL_WARNING).cleared_at_s is not None


class TestActions:
    def test_a_hot_device_gets_half_its_requests_at_once(self, stage: Stage) -> None:
        monitor = stage.monitor()
        stage.polled(monitor, seen(FIRST, temperature_c=86.0))
        assert monitor.fractions == {FIRST: 0.5}
        assert stage.entry(RuleName.THERMAL_CRITICAL).acted_at_s is not None

    def test_power_beyond_its_limit_empties_the_device_and_that_is_when_it_was_acted_on(self, stage: Stage) -> None:
        monitor, stage.holds = stage.monitor(), frozenset({FIRST})
        stage.polled(monitor, seen(FIRST, power_w=460.0))
        assert monitor.device_health[FIRST] is DeviceHealth.DRAINING
        asyncio.run(monitor._tick())
        assert stage.entry(RuleName.POWER_CRITICAL).acted_at_s is None
        stage.holds = frozenset()
        asyncio.run(monitor._tick())
        assert stage.entry(RuleName.POWER_CRITICAL).acted_at_s is not None

    def test_a_dry_run_tells_and_does_nothing(self, stage: Stage) -> None:
        stage.health = replace(HURRIED, dry_run=True)
        monitor = stage.monitor()
        stage.polled(monitor, seen(FIRST, temperature_c=86.0, power_w=460.0))
        assert not monitor.fractions
        assert monitor.device_health[FIRST] not in (DeviceHealth.DRAINING, DeviceHealth.THROTTLED)
        assert stage.entry(RuleName.POWER_CRITICAL).dry_run

    def test_a_silent_device_is_lost(self, stage: Stage) -> None:
        monitor = stage.monitor()
        stage.polled(monitor, Silence(device=FIRST, reason="off the bus"))
        assert monitor.device_health[FIRST] is DeviceHealth.LOST
        assert any("off the bus" in reason for reason in monitor.reasons(FIRST))


class TestQuarantine:
    def test_outlives_the_controller(self, stage: Stage) -> None:
        stage.polled(stage.monitor(), seen(FIRST, ecc_uncorrected=1))
        assert stage.monitor().device_health[FIRST] is DeviceHealth.QUARANTINED

    def test_three_of_ten_ill_devices_are_more_than_the_brake_lets_out_of_service(self, stage: Stage) -> None:
        monitor = stage.monitor()
        stage.polled(monitor, *(seen(f"n/gpu-{number}", ecc_uncorrected=1) for number in range(3)))
        states = list(monitor.device_health.values())
        assert states.count(DeviceHealth.QUARANTINED) == 1
        assert stage.entry(RuleName.QUARANTINED_SHARE_HIGH).cleared_at_s is None

    @pytest.mark.parametrize(("passes", "after"), [(True, DeviceHealth.HEALTHY), (False, DeviceHealth.QUARANTINED)])
    def test_only_a_passed_probe_ends_it(self, stage: Stage, passes: bool, after: DeviceHealth) -> None:
        no_window = tuple(
            replace(rule, window_s=1e-9) if rule.name is RuleName.ECC_UNCORRECTABLE else rule for rule in AT_ONCE
        )
        stage.health, stage.link.passes = replace(HURRIED, rules=no_window, rest_s=0.0), passes
        monitor = stage.monitor()
        stage.polled(monitor, seen(FIRST, ecc_uncorrected=1))
        stage.polled(monitor, seen(FIRST, ecc_uncorrected=1))
        asyncio.run(monitor._tick())
        assert monitor.device_health[FIRST] is DeviceHealth.PROBATION
        asyncio.run(_all(stage.works))
        assert stage.link.probed == [FIRST]
        assert monitor.device_health[FIRST] is after


class TestPeople:
    def test_a_cordon_outlives_the_controller_and_is_lifted_by_its_holder(self, stage: Stage) -> None:
        monitor = stage.monitor()
        stage.polled(monitor, seen(FIRST))
        monitor.cordon([FIRST], Cordon(by="me"))
        again = stage.monitor()
        again.uncordon([FIRST], "somebody else")
        assert again.cordoned == {FIRST}
        again.uncordon([FIRST], "me")
        assert not again.cordoned

    def test_a_device_that_was_taken_out_is_forgotten_for_good(self, stage: Stage) -> None:
        monitor = stage.monitor()
        stage.polled(monitor, Silence(device=FIRST, reason="taken out"))
        monitor.forget([FIRST])
        assert FIRST not in stage.monitor().device_health


async def _all(works: list[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*works)
