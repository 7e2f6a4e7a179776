"""Objectives and how fast they are being missed: error budgets and burn rates. Counts in, figures out.

Burn is how many times faster than allowed the budget is spent: at 1 it lasts exactly as long as the objective's window.
An objective burns when both a long and a short window show it, so that neither a blip nor an old wound does.
Source: Google's SRE workbook, chapter 5, "multiwindow, multi-burn-rate alerts" (14.4 over one hour and five minutes
spends 2 % of a 30-day budget).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ObjectiveName(StrEnum):
    AVAILABILITY = "availability"
    JOB_COMPLETION_TIME = "job_completion_time"
    ALERT_RESPONSE_TIME = "alert_response_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """`target` is the part that must be good, 0 to 1. `within_s`: what is good where time decides, else None."""

    name: ObjectiveName
    target: float
    window_s: float
    within_s: float | None = None

    def is_good(self, duration_s: float) -> bool:
        """Of one that ended well. Raises: AssertionError for an objective without a time."""
        assert self.within_s is not None, f"{self.name} counts outcomes, not times"
        return duration_s <= self.within_s


_MONTH_S = 30 * 86_400.0
AVAILABILITY = Objective(name=ObjectiveName.AVAILABILITY, target=0.999, window_s=_MONTH_S)
JOB_COMPLETION_TIME = Objective(name=ObjectiveName.JOB_COMPLETION_TIME, target=0.95, window_s=_MONTH_S, within_s=3600.0)
ALERT_RESPONSE_TIME = Objective(name=ObjectiveName.ALERT_RESPONSE_TIME, target=0.99, window_s=_MONTH_S, within_s=60.0)
"""Defaults; a minute from detection to action is the spec's (D2), the other figures are ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What was counted in one span of time that begins at `start_s`."""

    start_s: float
    num_good: int
    num_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """Rates are None where nothing was counted: no news is neither good nor bad."""

    objective: Objective
    num_good: int
    num_total: int
    budget_left: float
    """Of the objective's window: 1 untouched, 0 spent, below 0 missed."""
    long_rate: float | None
    short_rate: float | None
    is_burning: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnWindows:
    long_s: float = 3600.0
    short_s: float = 300.0
    rate: float = 14.4
    """From which on both windows must burn."""


def burn(
    objective: Objective, buckets: tuple[Bucket, ...], *, now_s: float, windows: BurnWindows | None = None
) -> Burn:
    """A bucket counts to a window in which it begins."""
    windows = windows or BurnWindows()
    num_good, num_total = _sum(buckets, now_s - objective.window_s)
    spent = _rate(objective, num_good, num_total)
    long_rate = _rate(objective, *_sum(buckets, now_s - windows.long_s))
    short_rate = _rate(objective, *_sum(buckets, now_s - windows.short_s))
    return Burn(
        objective=objective,
        num_good=num_good,
        num_total=num_total,
        budget_left=1.0 - (spent or 0.0),
        long_rate=long_rate,
        short_rate=short_rate,
        is_burning=min(long_rate or 0.0, short_rate or 0.0) >= windows.rate,
    )


def _sum(buckets: tuple[Bucket, ...], since_s: float) -> tuple[int, int]:
    inside = [bucket for bucket in buckets if bucket.start_s >= since_s]
    return sum(bucket.num_good for bucket in inside), sum(bucket.num_total for bucket in inside)


def _rate(objective: Objective, num_good: int, num_total: int) -> float | None:
    """Bad part of all, over the part that may be bad."""
    return (num_total - num_good) / num_total / (1.0 - objective.target) if num_total else None
