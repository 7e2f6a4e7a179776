"""What came of a poll or of time: events to record, and effects for the shell to carry out."""

from __future__ import annotations

from dataclasses import dataclass

from placement.health_state import Alert, FleetHealth
from placement.inventory import DeviceHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFired:
    alert: Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertCleared:
    alert: Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    device: str
    before: DeviceHealth
    after: DeviceHealth


Event = AlertFired | AlertCleared | StateChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """Log it, call back, post it to webhooks."""

    alert: Alert
    is_cleared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Requests in flight on the device become this part of the usual number; 1 lifts it."""

    device: str
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempt:
    """What runs on the device goes back to its queue."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Empty the device and place nothing on it, until `Restore`."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Try the empty device, and answer by `health.probed` with the same number."""

    device: str
    number: int
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """The device takes shares again."""

    device: str


Act = Throttle | Preempt | Quarantine


@dataclass(frozen=True, slots=True, kw_only=True)
class Would:
    """Dry run: what would have been done."""

    act: Act


Effect = Notify | Act | Probe | Restore | Would


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`changed` are devices whose `Standing` differs from before: store those before carrying out the effects."""

    fleet: FleetHealth
    events: tuple[Event, ...] = ()
    effects: tuple[Effect, ...] = ()
    changed: tuple[str, ...] = ()
