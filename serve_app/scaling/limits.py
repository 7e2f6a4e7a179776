"""Which limits hold for a target at a moment: its own, or those of a schedule that is open. No clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from serve_app.ops.maintenance import is_open
from serve_app.scaling.rules import Limits, ScalingSettings, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsNow:
    """`schedule` names the window that set a limit; empty where none did."""

    min_replicas: int
    max_replicas: int
    schedule: str = ""


def limits_at(settings: ScalingSettings, target: Target, *, configured: int, at: datetime) -> LimitsNow:
    """`configured` is the count the configuration names. Of several open schedules the one named last wins.

    A limit that was given wins over one that was not, so `min` alone may raise `max` and the reverse.
    """
    own = settings.limits.get(target.name, Limits())
    now = _resolved(own, LimitsNow(min_replicas=configured, max_replicas=configured))
    for schedule in settings.schedules:
        if schedule.target == target.name and is_open(schedule, at):
            now = _resolved(schedule.limits, now, schedule.name)
    return now


def _resolved(given: Limits, base: LimitsNow, schedule: str | None = None) -> LimitsNow:
    least = base.min_replicas if given.min_replicas is None else given.min_replicas
    most = base.max_replicas if given.max_replicas is None else given.max_replicas
    if given.max_replicas is None:
        most = max(least, most)
    else:
        least = min(least, most)
    return LimitsNow(min_replicas=least, max_replicas=most, schedule=base.schedule if schedule is None else schedule)
