"""Sentences about an outlook, made from its fields."""

from __future__ import annotations

from math import floor

from placement.outlook import Outlook, Signal
from placement.units import percent

ACT_RISK = 0.5
"""From here on the advice is to move; below, a rising device is watched."""
MOVE_WITHIN = 0.75
"""Part of the time to critical that may pass before the move: slow moves and optimistic trends."""
NAMES = {
    Signal.POWER: "power",
    Signal.ECC_CORRECTED: "corrected memory errors",
    Signal.PCIE_REPLAYS: "PCIe replays",
}


def advice(device: str, outlook: Outlook) -> str:
    """`GPU-0: 75 °C, +0.5 °C/min, critical 85 °C in 20 min: move within 15 min`."""
    return f"{device}: {_facts(outlook)}: {_what_to_do(outlook)}"


def short(outlook: Outlook) -> str:
    """`risk 0.34, 85 °C in 20 min`; the risk alone where it is small and nothing approaches a limit."""
    ahead_s, risk = outlook.time_to_critical_s, f"risk {outlook.risk:.2f}"
    if ahead_s is not None:
        return f"{risk}, {_limit(outlook)} {_when(ahead_s)}"
    return f"{risk}, {_level(outlook)}" if outlook.risk >= ACT_RISK else risk


def _facts(outlook: Outlook) -> str:
    facts = [_level(outlook)]
    if outlook.trend is not None:
        facts.append(_slope(outlook, outlook.trend.slope_per_s * 60))
    ahead_s, interval_s = outlook.time_to_critical_s, outlook.interval_s
    if outlook.limit is not None:
        facts.append(f"critical {_limit(outlook)}" + (f" {_when(ahead_s)}" if ahead_s is not None else ""))
    if ahead_s and interval_s is not None and _minutes(interval_s[1]) != _minutes(interval_s[0]):
        facts[-1] += f" ({_minutes(interval_s[0])} to {_minutes(interval_s[1])})"
    return ", ".join(facts)


def _what_to_do(outlook: Outlook) -> str:
    if outlook.risk < ACT_RISK:
        return "nothing to do" if outlook.time_to_critical_s is None else "watch it"
    ahead_s, interval_s = outlook.time_to_critical_s, outlook.interval_s
    if not ahead_s or interval_s is None:
        return "move now"
    within_s = min(ahead_s * MOVE_WITHIN, interval_s[0])
    return f"move within {_minutes(within_s)} min" if within_s >= 60 else "move now"


def _level(outlook: Outlook) -> str:
    match outlook.signal:
        case Signal.TEMPERATURE:
            return f"{outlook.level:.0f} °C"
        case Signal.POWER:
            return f"power at {_limit_share(outlook.level)} of its limit"
        case Signal.SILENCE:
            return f"{outlook.level:.0f} of the last polls failed" if outlook.level else _partly(outlook)
        case Signal.ECC_CORRECTED | Signal.PCIE_REPLAYS:
            return f"{outlook.level:.2g} {NAMES[outlook.signal]} per minute"


def _partly(outlook: Outlook) -> str:
    return "readings have vanished" if outlook.risk else "no reading is missing"


def _limit(outlook: Outlook) -> str:
    assert outlook.limit is not None
    match outlook.signal:
        case Signal.TEMPERATURE:
            return f"{outlook.limit:g} °C"
        case Signal.POWER:
            return f"{_limit_share(outlook.limit)} of the power limit"
        case _:
            return f"{outlook.limit:g} per minute"


def _slope(outlook: Outlook, per_min: float) -> str:
    if outlook.signal is Signal.POWER:
        return f"{per_min * 100:+.2g} %/min"
    return f"{per_min:+.1f} °C/min" if abs(per_min) >= 0.05 else f"{per_min:+.2f} °C/min"


def _limit_share(fraction: float) -> str:
    return percent(round(fraction, 3))


def _when(ahead_s: float) -> str:
    return f"in {_minutes(ahead_s)} min" if ahead_s else "now"


def _minutes(seconds: float) -> int:
    """Whole minutes, rounded down, so that nobody comes too late; a hair below counts as whole."""
    return floor(seconds / 60 + 1e-6)
