"""The health of the fleet, kept by the controller: polls and time go into `placement.health`, effects come out and act.

Owner of the fleet's health. What devices say is read by `fleet.watches`; moving what runs is the replanner's, which
sees a device's health among its `Conditions`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from placement import health
from placement.health_events import (
    AlertCleared,
    AlertFired,
    Effect,
    Event,
    Notify,
    Outcome,
    Preempt,
    Probe,
    Quarantine,
    Restore,
    StateChanged,
    Throttle,
    Would,
)
from placement.health_rules import Action
from placement.health_state import Alert, Cordon, FleetHealth, health_of, requests_fraction
from placement.inventory import DeviceHealth, Inventory
from placement.objectives import ObjectiveName
from placement.signals import Poll
from serve_app.config.settings import HealthSettings, Settings
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.turns import Spawn
from serve_app.fleet.alerts import AlertEntry, AlertHistory, Callbacks
from serve_app.fleet.health_store import HealthStore
from serve_app.fleet.watches import NodePolls
from serve_app.logs import logger
from serve_app.ops.maintenance import Lay, turns
from serve_app.ops.objective_counts import ObjectiveCounts
from serve_app.turns import kept
from tracing import names
from tracing.spans import operation

POLL_S = 5.0
_TICK_S = 1.0
_WINDOWS_S = 10.0
_AT_ONCE = frozenset({Action.NOTIFY, Action.THROTTLE})
"""Actions that are carried out when they are told; the others when the device is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFacts:
    """What else is known when polls are judged. `planned_bytes` by device; `holds` are devices that engines are on."""

    inventory: Inventory | None
    planned_bytes: Mapping[str, int]
    holds: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRecords:
    """What survives a restart."""

    standings: HealthStore
    alerts: AlertHistory
    objectives: ObjectiveCounts


class HealthMonitor:
    """`facts` says what is planned, `on_polls` hears every round, `on_change` that a device's health is another."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        fleet: FleetLink,
        records: HealthRecords,
        callbacks: Callbacks,
        facts: Callable[[], FleetFacts],
        on_polls: Callable[[tuple[NodePolls, ...]], None],
        on_change: Callable[[], None],
        on_alert: Callable[[Alert], None],
        spawn: Spawn,
    ) -> None:
        self._settings = settings
        self._fleet_link = fleet
        self._records = records
        self._callbacks = callbacks
        self._facts = facts
        self._on_polls = on_polls
        self._on_change = on_change
        self._on_alert = on_alert
        self._spawn = spawn
        self.fleet: FleetHealth = health.restored(records.standings.standings(), now_s=time.monotonic())
        records.alerts.settle(self.fleet.active_alerts, at_s=time.time())
        self.polls: dict[str, Poll] = {}
        """The last poll of each device."""
        self._unacted: dict[tuple[str, str], Alert] = {}

    # -- what others see -----------------------------------------------------------------------------

    @property
    def device_health(self) -> dict[str, DeviceHealth]:
        dry_run = self._settings().health.dry_run
        return {name: health_of(record.standing, dry_run=dry_run) for name, record in self.fleet.records.items()}

    @property
    def cordoned(self) -> frozenset[str]:
        return frozenset(name for name, record in self.fleet.records.items() if record.standing.cordons)

    @property
    def fractions(self) -> dict[str, float]:
        """Of its requests in flight, the part that each throttled device may have."""
        policy = self._settings().health
        found = {name: requests_fraction(record.standing, policy) for name, record in self.fleet.records.items()}
        return {name: fraction for name, fraction in found.items() if fraction < 1}

    def reasons(self, device: str) -> tuple[str, ...]:
        """Why the device is not simply healthy, a clause each."""
        record = self.fleet.records.get(device)
        if record is None:
            return ()
        standing = record.standing
        cordons = tuple(f"{'drained' if one.drains else 'cordoned'} by {one.by}" for one in standing.cordons)
        rest = (f"in quarantine: {standing.quarantine.reason}",) if standing.quarantine else ()
        alerts = (alert.message for alert in standing.alerts)
        return tuple(dict.fromkeys((*rest, *cordons, *(text for text in alerts if not any(text in r for r in rest)))))

    # -- what people do ------------------------------------------------------------------------------

    def cordon(self, devices: Iterable[str], by: Cordon) -> None:
        for device in devices:
            self._take(health.cordon(self.fleet, device, by, now_s=time.monotonic(), policy=self._policy))

    def uncordon(self, devices: Iterable[str], by: str) -> None:
        for device in devices:
            self._take(health.uncordon(self.fleet, device, by, now_s=time.monotonic(), policy=self._policy))

    def forget(self, devices: Iterable[str]) -> None:
        """For hardware that was taken out: what vanished by itself stays known as lost."""
        for device in devices:
            self.fleet = health.forget(self.fleet, device)
            self._records.standings.forget(device)
            self.polls.pop(device, None)

    # -- loops ---------------------------------------------------------------------------------------

    async def watch(self) -> None:
        while True:
            began_s = time.monotonic()
            await kept(self._poll, what="polling devices")
            await asyncio.sleep(max(0.0, POLL_S - (time.monotonic() - began_s)))

    async def run(self) -> None:
        """Time alone: what stays out, rests that end, windows that open."""
        windows_s = 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            await kept(self._tick, what="the health of devices")
            if time.monotonic() >= windows_s:
                windows_s = time.monotonic() + _WINDOWS_S
                await kept(self._turn_windows, what="maintenance windows")

    async def _tick(self) -> None:
        self._take(health.tick(self.fleet, now_s=time.monotonic(), policy=self._policy))
        self._tell_what_was_carried_out()

    async def _poll(self) -> None:
        facts = self._facts()
        if facts.inventory is None:
            return
        rounds = await self._fleet_link.watches.poll(facts.inventory)
        polls = [poll for one in rounds for poll in one.polls]
        self.polls |= {poll.device: poll for poll in polls}
        now_s = time.monotonic()
        known = health.enroll(self.fleet, (device.id for device in facts.inventory.devices), now_s=now_s)
        outcome = health.observe(known, polls, planned_bytes=facts.planned_bytes, now_s=now_s, policy=self._policy)
        with operation(names.HEALTH_CHECK_SPAN) if outcome.events else nullcontext():
            self._take(outcome)
        self._on_polls(rounds)

    # -- what comes out ------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        """Written down first, acted on then."""
        self._records.standings.save(outcome.fleet, outcome.changed)
        self.fleet = outcome.fleet
        entries = [entry for event in outcome.events if (entry := self._record(event)) is not None]
        for effect in outcome.effects:
            self._carry_out(effect)
        for entry in entries:
            self._callbacks.tell(entry)
        if any(isinstance(event, StateChanged) for event in outcome.events) or any(
            isinstance(effect, Throttle) for effect in outcome.effects
        ):
            self._on_change()

    def _record(self, event: Event) -> AlertEntry | None:
        match event:
            case AlertFired():
                return self._fired(event.alert)
            case AlertCleared():
                _log.info("alert cleared", rule=event.alert.rule, device=event.alert.device)
                self._unacted.pop(_key(event.alert), None)
                return self._records.alerts.cleared(event.alert, at_s=time.time())
            case StateChanged():
                _log.warning("device health", device=event.device, was=event.before, is_now=event.after)
                return None
            case _:
                assert_never(event)

    def _fired(self, alert: Alert) -> AlertEntry:
        _log.warning("alert", rule=alert.rule, device=alert.device, severity=alert.severity, message=alert.message)
        dry_run = self._policy.dry_run
        entry = self._records.alerts.fired(alert, at_s=time.time(), dry_run=dry_run)
        with operation(names.ALERT_SPAN.format(alert.rule), self._attributes(alert)):
            self._on_alert(alert)
        if alert.action in _AT_ONCE or dry_run:
            self._acted(alert)
        else:
            self._unacted[_key(alert)] = alert
        return entry

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Quarantine():
                with operation(names.QUARANTINE_SPAN, {names.DEVICE: effect.device, names.REASON: effect.reason}):
                    _log.error("quarantine", device=effect.device, reason=effect.reason)
            case Preempt():
                with operation(names.PREEMPT_SPAN, {names.DEVICE: effect.device, names.REASON: effect.reason}):
                    _log.error("preempt", device=effect.device, reason=effect.reason)
            case Throttle():
                _log.warning("throttle", device=effect.device, fraction=effect.fraction)
            case Probe():
                self._spawn(self._probe(effect))
            case Restore():
                _log.warning("back in service", device=effect.device)
            case Would():
                _log.warning("dry run: would have acted", act=type(effect.act).__name__, device=effect.act.device)
            case Notify():
                pass  # its entry is told to every callback
            case _:
                assert_never(effect)

    async def _probe(self, effect: Probe) -> None:
        """The empty device is tried: what is still moving off it has the probe's time to go."""
        until_s = time.monotonic() + effect.timeout_s / 2
        while effect.device in self._facts().holds and time.monotonic() < until_s:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(_TICK_S)
        poll = self.polls.get(effect.device)
        uuid = getattr(poll, "uuid", "")
        result = await self._fleet_link.probe(effect.device, uuid, timeout_s=effect.timeout_s)
        _log.warning("probe", device=effect.device, passed=result.has_passed, reason=result.reason)
        self._take(
            health.probed(
                self.fleet,
                effect.device,
                number=effect.number,
                has_passed=result.has_passed,
                now_s=time.monotonic(),
                policy=self._policy,
            )
        )

    def _tell_what_was_carried_out(self) -> None:
        """A device that had to be emptied is; its alert's action is done then."""
        if self._unacted:
            held = self._facts().holds
            for alert in [alert for alert in self._unacted.values() if alert.device not in held]:
                self._acted(alert)

    def _acted(self, alert: Alert) -> None:
        self._unacted.pop(_key(alert), None)
        entry = self._records.alerts.acted(alert, at_s=time.time())
        if entry is not None and entry.response_s is not None:
            good = self._settings().objectives.alert_response_time.is_good(entry.response_s)
            self._records.objectives.count(
                ObjectiveName.ALERT_RESPONSE_TIME, num_good=int(good), num_total=1, at_s=time.time()
            )

    async def _turn_windows(self) -> None:
        now_s = time.monotonic()
        for turn in turns(self._settings().maintenance.windows, self.fleet, datetime.now(UTC)):
            if isinstance(turn, Lay):
                self._take(health.cordon(self.fleet, turn.device, turn.cordon, now_s=now_s, policy=self._policy))
            else:
                self._take(health.uncordon(self.fleet, turn.device, turn.by, now_s=now_s, policy=self._policy))

    def _attributes(self, alert: Alert) -> dict[str, str | float | bool]:
        poll = self.polls.get(alert.device or "")
        known = {
            names.DEVICE: alert.device,
            names.HARDWARE_ID: getattr(poll, "uuid", None),
            names.ALERT_VALUE: alert.value,
            names.ALERT_THRESHOLD: alert.limit,
            names.ALERT_ACTION: alert.action.value,
            names.DRY_RUN: self._policy.dry_run,
        }
        return {name: value for name, value in known.items() if value is not None}

    @property
    def _policy(self) -> HealthSettings:
        return self._settings().health


def _key(alert: Alert) -> tuple[str, str]:
    return alert.rule.value, alert.device or ""


_log = logger("headroom.health")
