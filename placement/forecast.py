"""What will become of a device: risk within a horizon, time to the critical limit, advice. Decides nothing itself.

The risk of a device is that of its worst signal: signals of one fault come together, so they are not multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from placement.device_history import DeviceHistory
from placement.forecast_words import advice, short
from placement.outlook import ForecastPolicy, Outlook, Signal, outlooks

MIN_SPAN_S = 300.0
"""A younger history forecasts only what is bad already."""
BAD_ALREADY = 0.5
STALE_S = 300.0
"""Without a poll for so long the watch is what is wrong, and nothing is known of the device."""
DEFAULT_HORIZON_S = 1800.0
DEFAULT_THRESHOLD = 0.8
"""Source: row D4."""
DEFAULT_POLICY = ForecastPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`time_to_critical_s` is None when no limit is surely approached; its interval then is None too.

    `confidence`, 0 to 1, is that of the leading signal: of a trend, that it has this direction; of a level or a rate,
    that it is on this side of its limit. `outlooks` holds all signals, the leading one first.
    """

    device: str
    risk: float
    horizon_s: float
    time_to_critical_s: float | None
    interval_s: tuple[float, float] | None
    confidence: float
    advice: str
    leading_signal: Signal
    outlooks: tuple[Outlook, ...]

    @property
    def row(self) -> str:
        """For a table, e.g. `risk 0.34, 85 °C in 20 min`."""
        return short(self.outlooks[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class NoForecast:
    """Why there is none: too little data, or no poll of late."""

    device: str
    reason: str


def forecast(
    history: DeviceHistory,
    *,
    now_s: float,
    horizon_s: float = DEFAULT_HORIZON_S,
    policy: ForecastPolicy = DEFAULT_POLICY,
) -> Forecast | NoForecast:
    """`now_s` is of the clock that `update` was given; only differences count."""
    silent_s = now_s - history.last_s
    if silent_s > STALE_S:
        return NoForecast(device=history.device, reason=f"last polled {silent_s:.0f} s ago; at most {STALE_S:.0f} s")
    found = sorted(
        outlooks(history, now_s=now_s, horizon_s=horizon_s, policy=policy),
        key=lambda outlook: (-outlook.risk, outlook.time_to_critical_s is None),
    )
    worst, seen_s = found[0], history.last_s - history.first_s
    if seen_s < MIN_SPAN_S and worst.risk < BAD_ALREADY:
        return NoForecast(
            device=history.device, reason=f"seen for {seen_s:.0f} s; a trend needs at least {MIN_SPAN_S:.0f} s"
        )
    return Forecast(
        device=history.device,
        risk=worst.risk,
        horizon_s=horizon_s,
        time_to_critical_s=worst.time_to_critical_s,
        interval_s=worst.interval_s,
        confidence=worst.confidence,
        advice=advice(history.device, worst),
        leading_signal=worst.signal,
        outlooks=tuple(found),
    )


def should_preempt(found: Forecast | NoForecast | None, *, threshold: float = DEFAULT_THRESHOLD) -> bool:
    """Whether what runs on the device should go before it fails. Never without a forecast."""
    return isinstance(found, Forecast) and found.risk >= threshold


def risk_permille(found: Forecast | NoForecast | None) -> int:
    """For the solver: 0 to 1000. No forecast weighs nothing: what is known to be bad is the health rules' matter."""
    return round(found.risk * 1000) if isinstance(found, Forecast) else 0
