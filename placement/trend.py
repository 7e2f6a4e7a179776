"""A straight line through few points, robustly: up to a quarter of them may be wild, and gaps do not matter.

The slope is the median of the slopes of all pairs (Theil 1950, Sen 1968); its interval comes from the ranks of those
slopes (Sen 1968, by Kendall's variance). Knows nothing of devices.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, sqrt
from statistics import median
from typing import NamedTuple

MIN_POINTS = 5
MIN_RECENT = 3
"""Points of the latest half without which it has no say of its own."""
INTERVAL_Z = 1.645
"""Two-sided 90 %."""
MAD_TO_SIGMA = 1.4826
"""Of normal noise, standard deviation over median absolute deviation."""


class Point(NamedTuple):
    time_s: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The line as it stands at `at_s`. Slopes are per second, in the unit of the values.

    `slope_per_s` is the lesser of the whole window's slope and that of its latest half: a step, or a rise that has
    ended, is no trend. `confidence`, 0 to 1, is that of the direction: near 0 for a flat line.
    """

    at_s: float
    level: float
    slope_per_s: float
    low_per_s: float
    high_per_s: float
    scatter: float
    """Standard deviation of the latest half around the line."""
    num_points: int
    span_s: float
    confidence: float


def robust_trend(points: Sequence[Point], *, at_s: float, spacing_s: float) -> Trend | None:
    """The trend of points in any order; None with fewer than `MIN_POINTS` of different times.

    `spacing_s` is how far apart points would be if none were missing; gaps cost confidence.
    """
    times = {point.time_s for point in points}
    if len(times) < MIN_POINTS:
        return None
    first_s, last_s = min(times), max(times)
    recent = [point for point in points if point.time_s >= (first_s + last_s) / 2]
    slopes = _pair_slopes(points)
    low, high = _interval(slopes, len(points))
    slope = median(slopes)
    if len({point.time_s for point in recent}) >= MIN_RECENT:
        slope = min(slope, median(_pair_slopes(recent)))
    levels = [point.value + slope * (at_s - point.time_s) for point in recent]
    level = median(levels)
    return Trend(
        at_s=at_s,
        level=level,
        slope_per_s=slope,
        low_per_s=min(low, slope),
        high_per_s=max(high, slope),
        scatter=MAD_TO_SIGMA * median(abs(value - level) for value in levels),
        num_points=len(points),
        span_s=last_s - first_s,
        confidence=_confidence(slopes, len(points), expected=(last_s - first_s) / spacing_s + 1),
    )


def _pair_slopes(points: Sequence[Point]) -> list[float]:
    """Slopes of all pairs of different times, sorted. Written for speed: it is most of what a forecast costs."""
    slopes: list[float] = []
    for index, (time_s, value) in enumerate(points):
        slopes += [(later - value) / (later_s - time_s) for later_s, later in points[index + 1 :] if later_s != time_s]
    slopes.sort()
    return slopes


def _interval(slopes: Sequence[float], num_points: int) -> tuple[float, float]:
    """The slopes at the ranks between which the true one lies with 90 %, if noise is independent."""
    reach = INTERVAL_Z * sqrt(num_points * (num_points - 1) * (2 * num_points + 5) / 18)
    low = max(0, floor((len(slopes) - reach) / 2))
    return slopes[low], slopes[len(slopes) - 1 - low]


def _confidence(slopes: Sequence[float], num_points: int, *, expected: float) -> float:
    """Kendall's tau (how far pairs agree in direction) × points present of those expected × n/(n+2) for few points."""
    rising, falling = len(slopes) - bisect_right(slopes, 0.0), bisect_left(slopes, 0.0)
    agreement = abs(rising - falling) / len(slopes)
    return agreement * min(1.0, num_points / expected) * num_points / (num_points + 2)
