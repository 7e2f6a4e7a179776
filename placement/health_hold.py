"""How long one rule's value has held on one device: the clock of a rule, without one that fires or clears anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from placement.health_rules import CLEAR_RATIO, HealthRule, RuleName

MAX_SAMPLES = 512
"""Polls with new events that one rule remembers; beyond it the oldest two are counted as one."""


class Turn(Enum):
    NONE = auto()
    FIRES = auto()
    CLEARS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    when_s: float
    num_new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Times are those of the first of an unbroken row of polls; None where the last poll was not of that kind."""

    rule: RuleName
    beyond_since_s: float | None = None
    clear_since_s: float | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def num_counted(self) -> int:
        """New events in the window, as of the last `counted`."""
        return sum(sample.num_new for sample in self.samples)


def counted(hold: Hold, num_new: int, *, window_s: float, now_s: float) -> Hold:
    """With `num_new` more events, and without those that have left the window."""
    samples = tuple(sample for sample in hold.samples if now_s - sample.when_s <= window_s)
    if num_new > 0:
        samples = (*samples, Sample(when_s=now_s, num_new=num_new))
    if len(samples) > MAX_SAMPLES:
        merged = replace(samples[1], num_new=samples[0].num_new + samples[1].num_new)
        samples = (merged, *samples[2:])
    return replace(hold, samples=samples)


def increase(before: int | None, after: int) -> int:
    """New events of a counter. A drop is a restart of the counter: all it shows is new. None: nothing to compare."""
    if before is None:
        return 0
    return after if after < before else after - before


def broken(hold: Hold) -> Hold:
    """After a poll that told nothing: neither what was beyond nor what was clear is known to have held."""
    return replace(hold, beyond_since_s=None, clear_since_s=None)


def advanced(
    hold: Hold, rule: HealthRule, *, value: float, limit: float, is_fired: bool, now_s: float
) -> tuple[Hold, Turn]:
    """One poll further. Fires at the first poll at which the value has been beyond for `hold_s`; clears likewise."""
    is_beyond = rule.is_beyond(value, limit)
    is_clear = not is_beyond and value < limit * CLEAR_RATIO
    beyond_s = _since(hold.beyond_since_s, now_s, holds=is_beyond)
    clear_s = _since(hold.clear_since_s, now_s, holds=is_clear)
    since_s, turn = (clear_s, Turn.CLEARS) if is_fired else (beyond_s, Turn.FIRES)
    is_due = since_s is not None and now_s - since_s >= rule.hold_s
    return replace(hold, beyond_since_s=beyond_s, clear_since_s=clear_s), turn if is_due else Turn.NONE


def _since(since_s: float | None, now_s: float, *, holds: bool) -> float | None:
    if not holds:
        return None
    return now_s if since_s is None else since_s
