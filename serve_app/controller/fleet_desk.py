"""What the controller knows and does of devices beside placing models: health, alerts, cordons, objectives.

Puts the parts together and answers the routes about them; what is decided stands in `placement.health`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from placement.health_rules import DEFAULT_RULES, DRIVER_RULES, RuleName, Severity
from placement.health_state import Alert
from placement.inventory import Device, DeviceHealth, HoldingKind, Inventory
from placement.signals import Silence
from serve_app.config.settings import Settings
from serve_app.controller.access_desk import AccessDesk
from serve_app.controller.bringup import Bringup
from serve_app.controller.conditions import USABLE, Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.forecasts import Forecasts
from serve_app.controller.health_monitor import FleetFacts, HealthMonitor, HealthRecords
from serve_app.controller.lease_desk import Act, LeaseDesk
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle
from serve_app.controller.model_alerts import SEVERITIES, ModelAlerts
from serve_app.controller.objectives import Objectives
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.controller.turns import Spawn
from serve_app.controller.views import DeviceFacts
from serve_app.fleet.actors import DeviceReading
from serve_app.fleet.alerts import AlertHistory, Callbacks
from serve_app.fleet.device_samples import device_sample
from serve_app.fleet.health_store import HealthStore
from serve_app.fleet.watches import NodePolls
from serve_app.fleet.webhooks import webhooks_of
from serve_app.leases.rpcs import Handler
from serve_app.ops.objective_counts import ObjectiveCounts


class FleetDesk:
    """`readings` are what wardens measured last, `guests` the bytes of those beside the plan, by device.

    `on_change` hears that devices may take more or less than before.
    """

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        bringup: Bringup,
        ledger: Ledger,
        fleet: FleetLink,
        telemetry: ControllerTelemetry,
        lifecycle: Lifecycle,
        readings: Callable[[], Mapping[str, DeviceReading]],
        guests: Callable[[], Mapping[str, Mapping[str, int]]],
        act: Act,
        health: Handler,
        submit_job: Handler,
        access: AccessDesk,
        gateways: Callable[[], Sequence[str]],
        on_change: Callable[[], None],
        spawn: Spawn,
    ) -> None:
        self._bringup = bringup
        self._ledger = ledger
        self._telemetry = telemetry
        self._readings = readings
        self._guests = guests
        self._spawn = spawn
        policy = bringup.settings.health
        self.records = HealthRecords(
            standings=HealthStore(connection),
            alerts=AlertHistory(connection, max_kept=policy.history),
            objectives=ObjectiveCounts(connection),
        )
        self._forecasts = Forecasts()
        self._callbacks = Callbacks()
        self._webhooks = webhooks_of(policy.webhooks, os.environ)
        self._callbacks.add(self._webhooks.offer)
        self._telemetry.expect_alerts(_rules(bringup.settings))
        self.model_alerts = ModelAlerts(
            history=self.records.alerts,
            callbacks=self._callbacks,
            metrics=lambda: telemetry.alerts,
            clock=time.time,
        )
        self.monitor = HealthMonitor(
            settings=lambda: bringup.settings,
            fleet=fleet,
            records=self.records,
            callbacks=self._callbacks,
            facts=self._facts,
            on_polls=self._polled,
            on_change=on_change,
            on_alert=self._alerted,
            spawn=spawn,
        )
        self.objectives = Objectives(
            settings=lambda: bringup.settings.objectives, counts=self.records.objectives, metrics=telemetry.objectives
        )

        self.leases = LeaseDesk(
            bringup=bringup,
            ledger=ledger,
            lifecycle=lifecycle,
            telemetry=telemetry,
            conditions=self.conditions,
            act=act,
            health=health,
            submit_job=submit_job,
            access=access,
            gateways=gateways,
        )

    def start(self) -> None:
        self._webhooks.start()
        self._spawn(self._start_leases())
        self._spawn(self.monitor.watch())
        self._spawn(self.monitor.run())
        self._spawn(self.objectives.run())

    def conditions(self, inventory: Inventory | None = None) -> Conditions:
        """Of the devices of this inventory, or of the one in force."""
        health = self.monitor.device_health
        failing = self._forecasts.to_empty(now_s=time.monotonic())
        emptied = {device: DeviceHealth.DRAINING for device in failing if health.get(device) in USABLE}
        return Conditions(
            health=health | emptied,
            cordoned=self.monitor.cordoned,
            leased_bytes=self.leases.leased_bytes(inventory.devices if inventory else None),
            guests=self._guests(),
            risk_permille=self._forecasts.risk_permille,
        )

    async def _start_leases(self) -> None:
        await self._bringup.known.wait()
        await self.leases.start()

    @property
    def unusable(self) -> frozenset[str]:
        """Devices on which nothing may lie."""
        return frozenset(name for name, health in self.monitor.device_health.items() if health not in USABLE)

    def device_facts(self, device: Device) -> DeviceFacts:
        return DeviceFacts(
            poll=self.monitor.polls.get(device.id),
            health=self.monitor.device_health.get(device.id, device.health),
            is_cordoned=device.id in self.monitor.cordoned,
            reasons=(*self.monitor.reasons(device.id), *filter(None, (self._forecasts.advice(device.id),))),
            forecast=self._forecasts.row(device.id),
            num_leases=self.leases.num_on(device.uuid),
            leased_bytes=self.leases.leased_bytes().get(device.id, 0),
            guests=self._guests().get(device.id, {}),
        )

    def temperature_c(self, device: str) -> float | None:
        """Of its last poll."""
        poll = self.monitor.polls.get(device)
        return None if poll is None or isinstance(poll, Silence) else poll.temperature_c

    # -- what the parts ask --------------------------------------------------------------------------

    def _facts(self) -> FleetFacts:
        inventory = self._bringup.state.inventory
        planned = Counter({device.id: _foreign(device) for device in inventory.devices} if inventory else {})
        planned.update(self._planned_by_us())
        planned.update(self.leases.leased_bytes())
        holds = {seat.device for name in self._ledger.tenures for seat in self._ledger.slots[name].seats}
        return FleetFacts(
            inventory=inventory, planned_bytes=dict(planned), holds=frozenset(holds | self._guests().keys())
        )

    def _polled(self, rounds: tuple[NodePolls, ...]) -> None:
        self._forecasts.saw(
            (poll for one in rounds for poll in one.polls),
            now_s=time.monotonic(),
            preempt_at=self._bringup.settings.health.preempt_at_risk,
        )
        for one in rounds:
            if one.polls:
                num_failed = sum(isinstance(poll, Silence) for poll in one.polls)
                self._telemetry.watch.polled(
                    one.node, duration_s=one.duration_s, num_failed=num_failed, at_s=time.time()
                )
        inventory = self._bringup.state.inventory
        if inventory is None:
            return
        self._telemetry.watch.keep(node.name for node in inventory.nodes)
        dressed = self.conditions().dress(inventory, (), headroom=self._bringup.settings.fleet.headroom)
        planned, leased = self._planned_by_us(), self.leases.leased_bytes()
        self._telemetry.devices.polled(
            [
                device_sample(
                    device,
                    self.monitor.polls.get(device.id, Silence(device=device.id, reason="never polled")),
                    planned_bytes=planned[device.id],
                    leased_bytes=leased.get(device.id, 0),
                    foreign_bytes=self._foreign_bytes(device.id),
                    failure_risks=self._forecasts.risk(device.id),
                )
                for device in dressed.devices
            ]
        )
        active = Counter((alert.rule.value, alert.severity.value) for alert in self.monitor.fleet.active_alerts)
        self._telemetry.alerts.show(active + self.model_alerts.active())

    def _planned_by_us(self) -> Counter[str]:
        planned = Counter[str]()
        for slot in self._ledger.slots.values():
            planned.update({seat.device: slot.share_bytes for seat in slot.seats})
        planned.update({device: sum(guests.values()) for device, guests in self._guests().items()})
        return planned

    def _foreign_bytes(self, device: str) -> int | None:
        reading = self._readings().get(device)
        return None if reading is None else max(0, reading.used_bytes - sum(reading.shares.values()))

    def _alerted(self, alert: Alert) -> None:
        self._telemetry.alerts.triggered(alert.rule.value, alert.severity.value)


def _foreign(device: Device) -> int:
    return sum(one.num_bytes for one in device.holdings if one.kind is HoldingKind.FOREIGN)


def _rules(settings: Settings) -> list[tuple[str, str]]:
    """Every alert that can fire, with its severity."""
    rules = {rule.name.value: rule.severity.value for rule in (*DEFAULT_RULES, *settings.health.rules, *DRIVER_RULES)}
    facts = (RuleName.DEVICE_LOST, RuleName.WATCH_STALE, RuleName.QUARANTINED_SHARE_HIGH)
    of_models = ((rule.value, severity.value) for rule, severity in SEVERITIES.items())
    return [*rules.items(), *((fact.value, Severity.CRITICAL.value) for fact in facts), *of_models]
