"""What a forecast remembers of one device: a bounded digest of its polls. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from placement.lane import CounterLane, LevelLane, first_count
from placement.signals import DeviceSignals, Poll, Silence
from placement.trend import Point

MAX_PRESENCES = 12
"""Polls whose gaps count as silence: a minute at one every 5 s."""
READINGS = ("temperature_c", "power_w", "utilization", "ecc_corrected", "pcie_replays")
"""What is looked for in each poll; one that was there and is gone has vanished."""
ANSWERED = "answered"
"""Stands beside the readings of every poll that is no `Silence`, also where a device offers none of them."""
NOTHING_YET = LevelLane()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceHistory:
    """`slowdown` is the last one told, in °C, None before. `power` holds fractions of the enforced limit."""

    device: str
    first_s: float
    last_s: float
    slowdown: Point | None = None
    temperature: LevelLane = NOTHING_YET
    power: LevelLane = NOTHING_YET
    ecc_corrected: CounterLane | None = None
    pcie_replays: CounterLane | None = None
    known: frozenset[str] = frozenset()
    """Of `READINGS`, those that this device ever gave, and `ANSWERED`."""
    presences: tuple[tuple[float, tuple[str, ...]], ...] = ()
    """Time and readings of the last polls; no readings is silence."""


def update(history: DeviceHistory | None, poll: Poll, now_s: float) -> DeviceHistory:
    """The history with one poll more; None begins one. A poll older than the last one seen changes nothing.

    A poll that never took place is no silence: who did not ask cannot say that nobody answered.
    """
    if history is None:
        history = DeviceHistory(device=poll.device, first_s=now_s, last_s=now_s)
    if now_s < history.last_s:
        return history
    readings = _readings(poll)
    history = replace(
        history,
        last_s=now_s,
        known=history.known | frozenset(readings),
        presences=tuple(sorted((*history.presences, (now_s, readings))))[-MAX_PRESENCES:],
    )
    return history if isinstance(poll, Silence) else _with_values(history, poll, now_s)


def _readings(poll: Poll) -> tuple[str, ...]:
    if isinstance(poll, Silence):
        return ()
    return (ANSWERED, *(name for name in READINGS if _finite(getattr(poll, name)) is not None))


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _with_values(history: DeviceHistory, poll: DeviceSignals, now_s: float) -> DeviceHistory:
    temperature_c, power = _finite(poll.temperature_c), _power_fraction(poll)
    return replace(
        history,
        slowdown=_lately(history.slowdown, _finite(poll.slowdown_c), now_s),
        temperature=history.temperature if temperature_c is None else history.temperature.add(temperature_c, now_s),
        power=history.power if power is None else history.power.add(power, now_s),
        ecc_corrected=_count(history.ecc_corrected, poll.ecc_corrected, now_s),
        pcie_replays=_count(history.pcie_replays, poll.pcie_replays, now_s),
    )


def _power_fraction(poll: DeviceSignals) -> float | None:
    """Power over its enforced limit; None where either is not told."""
    power_w, limit_w = _finite(poll.power_w), _finite(poll.power_limit_w)
    return None if power_w is None or not limit_w else power_w / limit_w


def _lately(known: Point | None, value: float | None, now_s: float) -> Point | None:
    """The later of the two; of those told at one time, the lower."""
    if value is None:
        return known
    return Point(now_s, min(value, known.value) if known is not None and known.time_s == now_s else value)


def _count(lane: CounterLane | None, value: int | None, now_s: float) -> CounterLane | None:
    if value is None:
        return lane
    return first_count(value, now_s) if lane is None else lane.add(value, now_s)
