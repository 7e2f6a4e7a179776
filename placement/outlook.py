"""How each signal of a device will stand at a horizon: a risk from 0 to 1 for each, by one formula per kind.

*Level* (temperature, power): the chance that one of the looks t = 0, 5, 10, ... minutes up to the horizon exceeds the
critical limit, each look a normal variable of its own around the line,

    risk = 1 − ∏ (1 − Φ(z(t))),   z(t) = (level + max(0, slope) · min(t, span) − limit) / √(floor² + scatter²)

so a trend is believed no further ahead than it has been seen; the greater risk of a short window (10 minutes) and a
long one (2 hours), both cut where the load last changed. How sure the slope is stands in the confidence, not in the
risk. *Rate* (corrected errors, replays): risk = 1 − 2^−(rate / critical rate · horizon / 30 min).
*Silence*: risk = 1 − 2^−(s²/3), s summed over the last polls: 1 for one that failed, the squared part of readings that
vanished for others. Each is monotone in level, slope, rate and s, and in the horizon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from math import hypot, sqrt
from statistics import NormalDist

from placement.device_history import MAX_PRESENCES, DeviceHistory
from placement.lane import COARSE_S, FINE_S, FINE_WINDOW_S, MARKS_WINDOW_S, Bucket, CounterLane, LevelLane
from placement.trend import Point, Trend, robust_trend

SETTLED_POWER = 0.15
"""Power that differs by more than this part of the limit is another load, and its temperature another curve."""
SETTLING_S = 600.0
"""A temperature follows a load for so long: some time constants, of minutes each, of a device and its heat sink."""
FRESH_S = 300.0
"""A level older than this is not judged; the silence is."""
RATE_HORIZON_S = 1800.0
"""The horizon at which the critical rate means a risk of one half."""
LOOK_S = 300.0
"""Noise of means this far apart is taken as independent."""
MAX_LOOKS = 24
"""Two hours: nothing is seen for longer than that."""
NORMAL = NormalDist()
MAX_AHEAD_S = 6 * 3600.0
"""A crossing further away is not told."""


class Signal(StrEnum):
    TEMPERATURE = "temperature"
    POWER = "power"
    ECC_CORRECTED = "ecc_corrected"
    PCIE_REPLAYS = "pcie_replays"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastPolicy:
    """Where each signal becomes critical."""

    critical_c: float | None = None
    """In place of the device's own slow-down limit."""
    unnamed_critical_c: float = 85.0
    """For devices that name no slow-down limit. Source: THERMAL_CRITICAL of row D1, A100 class."""
    critical_power: float = 1.125
    """Part of the enforced limit; at the limit itself a busy device works. Source: D1, 450 W of an A100's 400 W."""
    critical_ecc_per_min: float = 2.0
    """Source: ECC_ERRORS_SPIKE of row D1, 10 in 300 s."""
    critical_replays_per_min: float = 8.0
    """Source: DCGM, DCGM_LIMIT_MAX_PCIREPLAY_RATE."""
    floor_c: float = 0.75
    """Least σ of a temperature: sensors tell whole degrees, and none stands still."""
    floor_power: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One signal at the horizon. Levels fill `level`, `limit` and, once there is one, `trend`; rates fill `level` (per
    minute) and `limit`; silence fills `level` with the number of failed polls.
    """

    signal: Signal
    risk: float
    confidence: float
    level: float
    limit: float | None = None
    trend: Trend | None = None

    @property
    def time_to_critical_s(self) -> float | None:
        """0 when there already; None when not on the way, not surely, or later than `MAX_AHEAD_S`."""
        if self.limit is None or self.signal not in LEVELS:
            return None
        if self.level >= self.limit:
            return 0.0
        if self.trend is None or self.trend.low_per_s <= 0:
            return None
        ahead_s = self._crossing_s(self.trend.slope_per_s)
        return ahead_s if ahead_s <= MAX_AHEAD_S else None

    @property
    def interval_s(self) -> tuple[float, float] | None:
        """Earliest and latest crossing by the 90 % interval of the slope; None without a time to critical."""
        ahead_s = self.time_to_critical_s
        if ahead_s is None or ahead_s == 0 or self.trend is None:
            return None if ahead_s is None else (0.0, 0.0)
        return self._crossing_s(self.trend.high_per_s), self._crossing_s(self.trend.low_per_s)

    def _crossing_s(self, slope_per_s: float) -> float:
        assert self.limit is not None
        return (self.limit - self.level) / slope_per_s


LEVELS = (Signal.TEMPERATURE, Signal.POWER)


def outlooks(history: DeviceHistory, *, now_s: float, horizon_s: float, policy: ForecastPolicy) -> Iterator[Outlook]:
    """One per signal that the device gives; silence always."""
    told_c = history.slowdown.value if history.slowdown is not None else policy.unnamed_critical_c
    critical_c = policy.critical_c if policy.critical_c is not None else told_c
    since_s = settled_since(history.power)
    levels = (
        _Level(Signal.TEMPERATURE, history.temperature, critical_c, policy.floor_c, since_s),
        _Level(Signal.POWER, history.power, policy.critical_power, policy.floor_power, since_s),
    )
    for level in levels:
        if level.lane.last is not None and now_s - level.lane.last.time_s <= FRESH_S:
            yield level.outlook(now_s, horizon_s)
    rates = (
        (Signal.ECC_CORRECTED, history.ecc_corrected, policy.critical_ecc_per_min),
        (Signal.PCIE_REPLAYS, history.pcie_replays, policy.critical_replays_per_min),
    )
    for signal, lane, critical_per_min in rates:
        if lane is not None:
            yield _rate_outlook(signal, lane, critical_per_min, now_s, horizon_s)
    yield _silence_outlook(history)


@dataclass(frozen=True, slots=True)
class _Level:
    signal: Signal
    lane: LevelLane
    limit: float
    floor: float
    since_s: float | None
    """Samples before this do not count for a trend."""

    def outlook(self, now_s: float, horizon_s: float) -> Outlook:
        """The worst of the windows that have a trend; without any, the level alone."""
        trends = [trend for trend in self._trends(now_s) if trend is not None]
        if trends:
            return max(
                (self._outlook(trend.level, trend, horizon_s) for trend in trends), key=lambda outlook: outlook.risk
            )
        assert self.lane.last is not None
        return self._outlook(self.lane.last.value, None, horizon_s)

    def _trends(self, now_s: float) -> Iterator[Trend | None]:
        # Power follows the load at once: only the long window tells a creep from that.
        if self.signal is not Signal.POWER:
            yield robust_trend(self._points(self.lane.fine, now_s - FINE_WINDOW_S), at_s=now_s, spacing_s=FINE_S)
        yield robust_trend(self._points(self.lane.coarse, float("-inf")), at_s=now_s, spacing_s=COARSE_S)

    def _points(self, buckets: Sequence[Bucket], oldest_s: float) -> list[Point]:
        if self.since_s is not None:
            oldest_s = max(oldest_s, self.since_s)
        return [point for point in (bucket.mean for bucket in buckets) if point.time_s >= oldest_s]

    def _outlook(self, level: float, trend: Trend | None, horizon_s: float) -> Outlook:
        spared = 1.0
        for look in range(min(MAX_LOOKS, int(horizon_s // LOOK_S)) + 1):
            spared *= 1 - self._exceeds(level, trend, look * LOOK_S)
        risk = 1 - spared
        rising = trend is not None and level < self.limit
        confidence = trend.confidence if trend is not None and rising else abs(2 * risk - 1)
        return Outlook(signal=self.signal, risk=risk, confidence=confidence, level=level, limit=self.limit, trend=trend)

    def _exceeds(self, level: float, trend: Trend | None, look_s: float) -> float:
        """The chance that the value is beyond the limit `look_s` from now."""
        if trend is None:
            return NORMAL.cdf((level - self.limit) / self.floor)
        ahead_s = min(look_s, trend.span_s)
        expected = level + max(0.0, trend.slope_per_s) * ahead_s
        return NORMAL.cdf((expected - self.limit) / hypot(self.floor, trend.scatter))


def settled_since(power: LevelLane) -> float | None:
    """When the present load had settled; None when it never changed within what is kept, or power is not told."""
    last = power.last
    if last is None:
        return None
    for bucket in chain(reversed(power.fine), reversed(power.coarse)):
        time_s, value = bucket.mean
        if abs(value - last.value) > SETTLED_POWER:
            return time_s + SETTLING_S
    return None


def _rate_outlook(
    signal: Signal, lane: CounterLane, critical_per_min: float, now_s: float, horizon_s: float
) -> Outlook:
    """By the greater rate of the last ten minutes and the last hour; a burst counts as spread over ten minutes."""
    rates = [lane.since(now_s - window_s) * 60 / window_s for window_s in (FINE_WINDOW_S, MARKS_WINDOW_S)]
    per_min = max(rates)
    risk = 1 - 2 ** -(per_min / critical_per_min * horizon_s / RATE_HORIZON_S)
    confidence = 1 - 1 / sqrt(1 + lane.since(now_s - MARKS_WINDOW_S))
    return Outlook(signal=signal, risk=risk, confidence=confidence, level=per_min, limit=critical_per_min)


def _silence_outlook(history: DeviceHistory) -> Outlook:
    gone = [_vanished(readings, history.known) for _, readings in history.presences]
    failed = sum(not readings for _, readings in history.presences)
    return Outlook(
        signal=Signal.SILENCE,
        risk=1 - 2 ** -(sum(gone) ** 2 / 3),
        confidence=len(history.presences) / MAX_PRESENCES,
        level=failed,
    )


def _vanished(readings: tuple[str, ...], known: frozenset[str]) -> float:
    """1 for a poll without any reading, the squared part of the missing ones for others."""
    if not readings:
        return 1.0
    return ((len(known) - len(readings)) / len(known)) ** 2
