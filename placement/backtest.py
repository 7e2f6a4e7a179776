"""A detector judged on what was recorded: which failures it told in time, and what else it alarmed about.

An alarm raised at `a` says "it fails within the horizon". It is right when a failure lies in (a, a + horizon]. While it
goes on it is raised again each horizon, so an alarm that is days too early is counted wrong many times. A failure is
caught when an alarm that covers it was raised at least `MOVE_S` before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from placement.device_history import DeviceHistory, update
from placement.forecast import forecast, should_preempt
from placement.signals import Poll

MOVE_S = 60.0
"""What runs on a device is moved within this time (row D3); a later alarm comes too late."""
EARLY_S = 86400.0
"""A wrong alarm with a failure within a day is counted as early beside."""

Detector = Callable[[Poll, float], bool]
"""Fed each poll of one device in order of time; whether it alarms now. Keeps its own state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One device from its first poll to its failure, or to the end of the record when `failed_s` is None."""

    device: str
    polls: Iterable[tuple[float, Poll]]
    failed_s: float | None
    story: str
    """What the record calls it: the kind of failure, or of health."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one detector did in one life."""

    story: str
    failed: bool
    lead_s: float | None
    """Between the first alarm that caught the failure and the failure; None when none did."""
    num_alarms: int
    num_right: int
    num_early: int
    seen_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Over many lives. What has no denominator is None."""

    num_lives: int
    num_failures: int
    num_caught: int
    num_alarms: int
    num_right: int
    num_early: int
    """Wrong alarms that a failure followed within a day."""
    device_days: float
    leads_s: tuple[float, ...] = field(repr=False)
    """Ascending."""

    @property
    def precision(self) -> float | None:
        return self.num_right / self.num_alarms if self.num_alarms else None

    @property
    def recall(self) -> float | None:
        return self.num_caught / self.num_failures if self.num_failures else None

    @property
    def false_alarms_per_device_day(self) -> float | None:
        return (self.num_alarms - self.num_right) / self.device_days if self.device_days else None

    def lead_s(self, fraction: float) -> float | None:
        """The lead that this fraction of the caught failures did not exceed, by nearest rank."""
        return self.leads_s[max(0, ceil(fraction * len(self.leads_s)) - 1)] if self.leads_s else None


def our_detector(*, horizon_s: float, threshold: float) -> Detector:
    """`forecast` as the controller runs it."""
    history: DeviceHistory | None = None

    def alarms(poll: Poll, now_s: float) -> bool:
        nonlocal history
        history = update(history, poll, now_s)
        return should_preempt(forecast(history, now_s=now_s, horizon_s=horizon_s), threshold=threshold)

    return alarms


def replay(life: Life, detectors: Mapping[str, Detector], *, horizon_s: float) -> dict[str, Judged]:
    """One pass over the polls, all detectors side by side; each is used for this life alone."""
    raised: dict[str, list[float]] = {name: [] for name in detectors}
    first_s: float | None = None
    last_s = 0.0
    for now_s, poll in life.polls:
        first_s, last_s = now_s if first_s is None else first_s, now_s
        for name, alarms in detectors.items():
            if alarms(poll, now_s) and (not raised[name] or now_s >= raised[name][-1] + horizon_s):
                raised[name].append(now_s)
    seen_s = 0.0 if first_s is None else last_s - first_s
    return {name: judge(life, times, seen_s=seen_s, horizon_s=horizon_s) for name, times in raised.items()}


def judge(life: Life, alarms: Sequence[float], *, seen_s: float, horizon_s: float) -> Judged:
    """`alarms` are the times at which one was raised, all before the failure, ascending."""
    leads = [life.failed_s - alarm_s for alarm_s in alarms] if life.failed_s is not None else []
    right = [lead_s for lead_s in leads if 0 < lead_s <= horizon_s]
    return Judged(
        story=life.story,
        failed=life.failed_s is not None,
        lead_s=max((lead_s for lead_s in right if lead_s >= MOVE_S), default=None),
        num_alarms=len(alarms),
        num_right=len(right),
        num_early=sum(horizon_s < lead_s <= EARLY_S for lead_s in leads),
        seen_s=seen_s,
    )


def score(lives: Iterable[Judged]) -> Score:
    found = list(lives)
    return Score(
        num_lives=len(found),
        num_failures=sum(life.failed for life in found),
        num_caught=sum(life.lead_s is not None for life in found),
        num_alarms=sum(life.num_alarms for life in found),
        num_right=sum(life.num_right for life in found),
        num_early=sum(life.num_early for life in found),
        device_days=sum(life.seen_s for life in found) / 86400,
        leads_s=tuple(sorted(life.lead_s for life in found if life.lead_s is not None)),
    )


def scores_by_story(lives: Iterable[Judged]) -> dict[str, Score]:
    """By story in order of its name."""
    found = list(lives)
    return {
        story: score(life for life in found if life.story == story) for story in sorted({one.story for one in found})
    }
