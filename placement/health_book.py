"""The fleet while one turn changes it: alerts, quarantine, the storm brake. What a value means is `health_judge`."""

from __future__ import annotations

from dataclasses import replace

from placement.health_events import (
    Act,
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
from placement.health_rules import Action, RuleName, Severity
from placement.health_state import (
    Alert,
    FleetHealth,
    HealthPolicy,
    Record,
    Rest,
    Standing,
    health_of,
    is_lost,
    max_out_of_service,
    requests_fraction,
)


class Book:
    """Lives for one call; `outcome` compares what it came to with what was."""

    def __init__(self, fleet: FleetHealth, policy: HealthPolicy, now_s: float) -> None:
        self.policy = policy
        self.now_s = now_s
        self._records = dict(fleet.records)
        self._alerts = fleet.alerts
        self._events: list[Event] = []
        self._effects: list[Effect] = []

    def record(self, device: str) -> Record:
        return self._records[device]

    def put(self, record: Record) -> None:
        self._records[record.standing.device] = record

    def put_standing(self, standing: Standing) -> None:
        self.put(replace(self._records[standing.device], standing=standing))

    def fire(self, alert: Alert) -> None:
        """Tells it, and does what its action says. An alert that is active already is not fired again."""
        assert alert.device is not None
        standing = self.record(alert.device).standing
        if standing.has(alert.rule):
            return
        self.put_standing(replace(standing, alerts=(*standing.alerts, alert)))
        self._tell(alert)
        if alert.action is Action.QUARANTINE:
            self._quarantine_by_rule(alert.device, alert.message)
        elif alert.action is Action.PREEMPT:
            self._act(Preempt(device=alert.device, reason=alert.message))
        elif alert.action is Action.THROTTLE and self.policy.dry_run:  # for real it is told by `outcome`
            self._act(Throttle(device=alert.device, fraction=self.policy.throttle_fraction))

    def clear(self, device: str, rules: frozenset[RuleName]) -> None:
        standing = self.record(device).standing
        going = tuple(alert for alert in standing.alerts if alert.rule in rules)
        if going:
            kept = tuple(alert for alert in standing.alerts if alert.rule not in rules)
            self.put_standing(replace(standing, alerts=kept))
        for alert in going:
            self._tell_cleared(alert)

    def lose(self, device: str, reason: str) -> None:
        """It could not be read: no rule's judgement but a fact, which neither the brake nor a dry run holds back."""
        self._rest(device, reason, base_s=self.policy.lost_rest_s)

    def restore(self, device: str) -> None:
        standing = self.record(device).standing
        self.put_standing(replace(standing, quarantine=None, released_s=self.now_s))
        self._effects.append(Restore(device=device))

    def strike(self, device: str) -> None:
        """A probe failed, or could not end: a longer rest."""
        rest = self.record(device).standing.quarantine
        assert rest is not None
        self._rest(device, rest.reason, base_s=rest.base_s)

    def find_stale(self, device: str) -> None:
        record = self.record(device)
        if self.now_s - record.last_poll_s <= self.policy.stale_s:
            return
        message = (
            f"{device}: no poll for {self.policy.stale_s:g} s. Nothing is placed there until its watch reports again."
        )
        self.fire(
            Alert(
                rule=RuleName.WATCH_STALE,
                device=device,
                severity=Severity.CRITICAL,
                action=Action.NOTIFY,
                message=message,
                since_s=self.now_s,
            )
        )

    def end_probe_without_answer(self, device: str) -> None:
        rest = self.record(device).standing.quarantine
        if rest is not None and rest.probe_by_s is not None and self.now_s >= rest.probe_by_s:
            self.strike(device)

    def quarantine_held_back(self, device: str) -> None:
        standing = self.record(device).standing
        if standing.held_back is not None and self._has_room() and not self.policy.dry_run:
            self._quarantine_by_rule(device, standing.held_back)

    def begin_probation(self, device: str) -> None:
        """When the rest is over, the device answers, and nothing that put it there is still so."""
        standing = self.record(device).standing
        rest = standing.quarantine
        if rest is None or rest.probe_by_s is not None or self.now_s < rest.until_s:
            return
        if is_lost(standing) or standing.wants(Action.QUARANTINE):
            return
        timeout_s = self.policy.probe_timeout_s
        number = standing.num_probes + 1
        self.put_standing(
            replace(standing, quarantine=replace(rest, probe_by_s=self.now_s + timeout_s), num_probes=number)
        )
        self._effects.append(Probe(device=device, number=number, timeout_s=timeout_s))

    def settle_brake(self) -> None:
        """Its alert lasts as long as it holds any device back, also over a restart."""
        if any(record.standing.held_back is not None for record in self._records.values()):
            self._brake()
            return
        for alert in self._alerts:
            self._tell_cleared(alert)
        self._alerts = ()

    def outcome(self, before: FleetHealth) -> Outcome:
        """`before` is the fleet as it was handed in."""
        changed = []
        for device, record in self._records.items():
            known = before.records.get(device)
            old = Standing(device=device) if known is None else known.standing
            if record is not known and record.standing != old:
                changed.append(device)
                self._compare(old, record.standing)
        fleet = FleetHealth(records=self._records, alerts=self._alerts)
        return Outcome(fleet=fleet, events=tuple(self._events), effects=tuple(self._effects), changed=tuple(changed))

    def _compare(self, old: Standing, new: Standing) -> None:
        states = [health_of(standing, dry_run=self.policy.dry_run) for standing in (old, new)]
        if states[0] is not states[1]:
            self._events.append(StateChanged(device=new.device, before=states[0], after=states[1]))
        fractions = [requests_fraction(standing, self.policy) for standing in (old, new)]
        if fractions[0] != fractions[1]:
            self._effects.append(Throttle(device=new.device, fraction=fractions[1]))

    def _quarantine_by_rule(self, device: str, reason: str) -> None:
        standing = self.record(device).standing
        if self.policy.dry_run:
            self._effects.append(Would(act=Quarantine(device=device, reason=reason)))
        elif standing.quarantine is not None or self._has_room():
            self._rest(device, reason, base_s=self.policy.rest_s)
        else:
            self.put_standing(replace(standing, held_back=reason))
            self._brake()

    def _has_room(self) -> bool:
        num_out = sum(record.standing.quarantine is not None for record in self._records.values())
        return num_out < max_out_of_service(len(self._records), self.policy.max_quarantined)

    def _rest(self, device: str, reason: str, *, base_s: float) -> None:
        """Into quarantine, or longer there. A strike is a new quarantine or a probation that failed."""
        standing = self.record(device).standing
        old = standing.quarantine
        is_resting = old is not None and old.probe_by_s is None
        num_strikes = standing.num_strikes if is_resting else self._strikes(standing) + 1
        base_s = max(base_s, old.base_s) if old is not None else base_s
        length_s = max(base_s, min(self.policy.max_rest_s, base_s * 2.0 ** min(num_strikes - 1, 60)))
        rest = Rest(
            reason=reason if old is None else old.reason,
            base_s=base_s,
            length_s=length_s,
            until_s=max(self.now_s + length_s, old.until_s if old is not None else 0.0),
        )
        self.put_standing(replace(standing, quarantine=rest, held_back=None, num_strikes=num_strikes))
        if old is None:
            self._effects.append(Quarantine(device=device, reason=reason))

    def _strikes(self, standing: Standing) -> int:
        released_s = standing.released_s
        has_proven_itself = (
            standing.quarantine is None and released_s is not None and self.now_s - released_s >= self.policy.forgive_s
        )
        return 0 if has_proven_itself else standing.num_strikes

    def _brake(self) -> None:
        if self._alerts:
            return
        message = (
            f"More than {self.policy.max_quarantined:.0%} of {len(self._records)} devices would be in quarantine. "
            "None is taken out of service by itself until one is back. Look for a cause they share."
        )
        alert = Alert(
            rule=RuleName.QUARANTINED_SHARE_HIGH,
            device=None,
            severity=Severity.CRITICAL,
            action=Action.NOTIFY,
            message=message,
            since_s=self.now_s,
        )
        self._alerts = (alert,)
        self._tell(alert)

    def _act(self, act: Act) -> None:
        self._effects.append(Would(act=act) if self.policy.dry_run else act)

    def _tell(self, alert: Alert) -> None:
        self._events.append(AlertFired(alert=alert))
        self._effects.append(Notify(alert=alert))

    def _tell_cleared(self, alert: Alert) -> None:
        self._events.append(AlertCleared(alert=alert))
        self._effects.append(Notify(alert=alert, is_cleared=True))
