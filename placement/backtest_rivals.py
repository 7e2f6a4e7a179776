"""What a forecast must beat: detectors that anybody writes in an afternoon. They see temperatures only."""

from __future__ import annotations

from collections import deque

from placement.backtest import Detector
from placement.signals import DeviceSignals, Poll
from placement.trend import Point

UNNAMED_CRITICAL_C = 85.0
LEAST_SQUARES_WINDOW_S = 1800.0
LEAST_SQUARES_MIN_POINTS = 5
LEAST_SQUARES_MAX_POINTS = 1000


def static_threshold(limit_c: float) -> Detector:
    """Alarms at or above a temperature."""

    def alarms(poll: Poll, now_s: float) -> bool:
        return isinstance(poll, DeviceSignals) and poll.temperature_c is not None and poll.temperature_c >= limit_c

    return alarms


def least_squares(*, horizon_s: float) -> Detector:
    """Alarms when the ordinary line through the last half hour of temperatures meets the slow-down limit in time."""
    points: deque[Point] = deque(maxlen=LEAST_SQUARES_MAX_POINTS)

    def alarms(poll: Poll, now_s: float) -> bool:
        if not isinstance(poll, DeviceSignals) or poll.temperature_c is None:
            return False
        points.append(Point(now_s, poll.temperature_c))
        while points[0].time_s < now_s - LEAST_SQUARES_WINDOW_S:
            points.popleft()
        if len(points) < LEAST_SQUARES_MIN_POINTS:
            return False
        limit_c = UNNAMED_CRITICAL_C if poll.slowdown_c is None else poll.slowdown_c
        return _line_at(points, now_s + horizon_s) >= limit_c

    return alarms


def _line_at(points: deque[Point], time_s: float) -> float:
    mean_s = sum(point.time_s for point in points) / len(points)
    mean = sum(point.value for point in points) / len(points)
    spread = sum((point.time_s - mean_s) ** 2 for point in points)
    slope = sum((point.time_s - mean_s) * (point.value - mean) for point in points) / spread if spread else 0.0
    return mean + slope * (time_s - mean_s)
