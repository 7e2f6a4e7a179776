"""What is kept of one signal of one device: thinned means of a level, minute marks of a counter. Bounded by time.

A level is kept twice, as means of a minute for the last minutes and of five minutes for the last two hours. Sums are
kept, so polls of equal time may come in any order.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from placement.trend import Point

FINE_S = 60.0
FINE_WINDOW_S = 600.0
COARSE_S = 300.0
COARSE_WINDOW_S = 7200.0
MARKS_WINDOW_S = 3600.0


class Bucket(NamedTuple):
    """Sums of the samples whose time falls into one bucket."""

    number: int
    time_sum: float
    value_sum: float
    num_samples: int

    @property
    def mean(self) -> Point:
        return Point(self.time_sum / self.num_samples, self.value_sum / self.num_samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelLane:
    """Temperature or power. Oldest first."""

    fine: tuple[Bucket, ...] = ()
    coarse: tuple[Bucket, ...] = ()

    def add(self, value: float, now_s: float) -> LevelLane:
        return LevelLane(
            fine=_added(self.fine, value, now_s, size_s=FINE_S, window_s=FINE_WINDOW_S),
            coarse=_added(self.coarse, value, now_s, size_s=COARSE_S, window_s=COARSE_WINDOW_S),
        )

    @property
    def last(self) -> Point | None:
        return self.fine[-1].mean if self.fine else None


def _added(
    buckets: tuple[Bucket, ...], value: float, now_s: float, *, size_s: float, window_s: float
) -> tuple[Bucket, ...]:
    number = int(now_s // size_s)
    if buckets and buckets[-1].number == number:
        last = buckets[-1]
        return (*buckets[:-1], Bucket(number, last.time_sum + now_s, last.value_sum + value, last.num_samples + 1))
    oldest = bisect_right(buckets, (number - int(window_s // size_s), inf))
    return (*buckets[oldest:], Bucket(number, now_s, value, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterLane:
    """A counter that restarts at 0 with its driver. `total` is what was counted since the first poll."""

    time_s: float
    value: int
    total: int = 0
    before: int | None = None
    """The value at the time before `time_s`, None at the first; what the next restart is judged by."""
    total_before: int = 0
    marks: tuple[Point, ...] = ()
    """Time and total of the first poll of each minute."""

    def add(self, value: int, now_s: float) -> CounterLane:
        if now_s == self.time_s:  # the greater of two at one time, whichever came first
            total = self.total_before + _counted(self.before, value)
            best = max((self.total, self.value), (total, value))
            return self._marked(replace(self, total=best[0], value=best[1]))
        later = replace(
            self,
            time_s=now_s,
            value=value,
            total=self.total + _counted(self.value, value),
            before=self.value,
            total_before=self.total,
        )
        return self._marked(later)

    @staticmethod
    def _marked(lane: CounterLane) -> CounterLane:
        mark, marks = Point(lane.time_s, lane.total), lane.marks
        if marks and marks[-1].time_s == lane.time_s:
            return replace(lane, marks=(*marks[:-1], mark))
        if marks and marks[-1].time_s // FINE_S == lane.time_s // FINE_S:
            return lane
        oldest = bisect_right(marks, (lane.time_s - MARKS_WINDOW_S - FINE_S, inf))
        return replace(lane, marks=(*marks[oldest:], mark))

    def since(self, time_s: float) -> int:
        """What was counted after the last mark at or before `time_s`, or after the first mark there is."""
        place = bisect_right(self.marks, (time_s, inf))
        return self.total - int(self.marks[max(0, place - 1)].value)


def first_count(value: int, now_s: float) -> CounterLane:
    return CounterLane(time_s=now_s, value=value, marks=(Point(now_s, 0),))


def _counted(before: int | None, value: int) -> int:
    if before is None:
        return 0
    return value - before if value >= before else value
