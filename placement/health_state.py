"""What is known of each device's health, and what may be wanted of it. Values only; `health` changes them.

`Standing` is all that must survive a restart (`placement.codec` writes and reads it); a `Record` adds the clocks
that may start anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.health_hold import Hold
from placement.health_rules import DEFAULT_RULES, DRIVER_RULES, Action, HealthRule, RuleName, Severity
from placement.inventory import DeviceHealth

_BILLION = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """`rules` are those of cluster.yaml; the driver's come on top."""

    rules: tuple[HealthRule, ...] = DEFAULT_RULES
    stale_s: float = 30.0
    """Longest time without a poll of a device before it counts as lost."""
    rest_s: float = 600.0
    """Of a first quarantine; each further strike doubles it."""
    lost_rest_s: float = 60.0
    """The same for a device that could not be read and answers again."""
    max_rest_s: float = 86_400.0
    probe_timeout_s: float = 120.0
    """A probe without an answer for so long has failed."""
    forgive_s: float = 86_400.0
    """Strikes are forgotten after so long in service."""
    max_quarantined: float = 0.10
    """Part of the fleet that rules may take out of service; one device always."""
    throttle_fraction: float = 0.5
    """Requests in flight that a throttled device keeps."""
    dry_run: bool = False
    """Everything is judged and told, nothing but lost devices is acted on."""

    @property
    def active_rules(self) -> tuple[HealthRule, ...]:
        return tuple(rule for rule in (*self.rules, *DRIVER_RULES) if rule.enabled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A rule that has fired and not cleared. `device` None: the whole fleet; `value`, `limit` None: a fact."""

    rule: RuleName
    device: str | None
    severity: Severity
    action: Action
    message: str
    since_s: float
    """When it fired, on the monotonic clock of whoever holds the state."""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cordon:
    """`by` is a person or a maintenance window; each lifts only its own. `drains`: what runs there moves off now."""

    by: str
    drains: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A quarantine, from its beginning to a passed probe."""

    reason: str
    base_s: float
    """Length of a first rest."""
    length_s: float
    """Length by the strikes so far."""
    until_s: float
    probe_by_s: float | None = None
    """On probation: when the probe counts as failed. None while resting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    device: str
    uuid: str = ""
    """Of the hardware that stood there at the last poll; empty before the first."""
    alerts: tuple[Alert, ...] = ()
    cordons: tuple[Cordon, ...] = ()
    quarantine: Rest | None = None
    held_back: str | None = None
    """Why a rule wanted it in quarantine while the storm brake held."""
    num_strikes: int = 0
    num_probes: int = 0
    """Ever; the number of the last probe, so that a late answer to an older one is known as such."""
    released_s: float | None = None
    ecc_uncorrected: int = 0
    """Volatile counter at the last poll. 0 at first: errors from before the first poll are not forgiven."""

    def has(self, rule: RuleName) -> bool:
        return any(alert.rule is rule for alert in self.alerts)

    def wants(self, action: Action) -> bool:
        return any(alert.action is action for alert in self.alerts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    standing: Standing
    last_poll_s: float
    """When a watch last said anything of it, silence included."""
    holds: tuple[Hold, ...] = ()
    ecc_corrected: int | None = None
    """Volatile counter at the last poll that told it."""

    def hold(self, rule: RuleName) -> Hold:
        return next((hold for hold in self.holds if hold.rule is rule), Hold(rule=rule))


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetHealth:
    """Every device by its id."""

    records: Mapping[str, Record] = field(default_factory=dict)
    alerts: tuple[Alert, ...] = ()
    """Of the whole fleet."""

    @property
    def active_alerts(self) -> tuple[Alert, ...]:
        return (*self.alerts, *(alert for record in self.records.values() for alert in record.standing.alerts))


def health_of(standing: Standing, *, dry_run: bool = False) -> DeviceHealth:
    """The worst that is true of it. `dry_run`: alerts change nothing but its mark; facts still do."""
    if is_lost(standing):
        return DeviceHealth.LOST
    if standing.quarantine is not None:
        resting = standing.quarantine.probe_by_s is None
        return DeviceHealth.QUARANTINED if resting else DeviceHealth.PROBATION
    if any(cordon.drains for cordon in standing.cordons) or (standing.wants(Action.PREEMPT) and not dry_run):
        return DeviceHealth.DRAINING
    if standing.wants(Action.THROTTLE) and not dry_run:
        return DeviceHealth.THROTTLED
    is_marked = any(alert.severity is not Severity.INFO for alert in standing.alerts)
    return DeviceHealth.DEGRADED if is_marked or standing.held_back is not None else DeviceHealth.HEALTHY


def is_lost(standing: Standing) -> bool:
    return standing.has(RuleName.DEVICE_LOST) or standing.has(RuleName.WATCH_STALE)


def requests_fraction(standing: Standing, policy: HealthPolicy) -> float:
    """Part of its usual requests in flight that the device may have."""
    return policy.throttle_fraction if standing.wants(Action.THROTTLE) and not policy.dry_run else 1.0


def max_out_of_service(num_devices: int, share: float) -> int:
    """Devices that rules may quarantine. `share` is read as the decimal it is written as."""
    return max(1, num_devices * round(share * _BILLION) // _BILLION)
