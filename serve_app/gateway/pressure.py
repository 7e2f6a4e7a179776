"""When a model is under pressure, with hysteresis, and where its requests may go instead. Pure.

Time comes in as an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from serve_app.config.settings import ModeSettings

HIGH_QUEUE: Final = 0.5
"""Queued requests, as a part of what the model works on at a time, from which it is under pressure."""
LOW_QUEUE: Final = 0.1
CALM_S: Final = 5.0
"""How long all must be well again before the pressure counts as gone."""
WINDOW_S: Final = 30.0
MIN_TIMED: Final = 20
"""Answers in the window before their 95th percentile counts."""
_MAX_TIMED: Final = 512


class Why(StrEnum):
    QUEUE = "queue"
    LATENCY = "latency"
    FAILING = "breaker_open"
    CALMING = "calming_down"
    """All is well, but not for long enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """`limit` is how many requests the model takes at a time; `fails`: none of its replicas is to be trusted."""

    num_queued: int
    limit: int
    p95_s: float | None = None
    target_s: float | None = None
    fails: bool = False


class Pressure:
    """Remembers for each model and mode since when it has been well."""

    def __init__(self) -> None:
        self._bad_until_s: dict[tuple[str, str], float] = {}

    def see(self, model: str, mode: str, signs: Signs, now_s: float) -> Why | None:
        """Why requests of this mode should leave this model alone now, or None."""
        key = (model, mode)
        why = _why(signs, is_pressed=key in self._bad_until_s)
        if why is not None:
            self._bad_until_s[key] = now_s + CALM_S
            return why
        if now_s < self._bad_until_s.get(key, now_s):
            return Why.CALMING
        self._bad_until_s.pop(key, None)
        return None


def _why(signs: Signs, *, is_pressed: bool) -> Why | None:
    if signs.fails:
        return Why.FAILING
    if signs.num_queued > (LOW_QUEUE if is_pressed else HIGH_QUEUE) * signs.limit:
        return Why.QUEUE
    late = signs.p95_s is not None and signs.target_s is not None and signs.p95_s > signs.target_s
    return Why.LATENCY if late else None


class RecentTimes:
    """Durations of whole answers of the last half minute, at most 512."""

    def __init__(self) -> None:
        self._times: deque[tuple[float, float]] = deque(maxlen=_MAX_TIMED)
        self._p95_s: float | None = None
        self._known_until_s = float("-inf")

    def add(self, duration_s: float, now_s: float) -> None:
        self._times.append((now_s, duration_s))

    def p95_s(self, now_s: float) -> float | None:
        """None while there are too few. Worked out once a second at most."""
        if now_s >= self._known_until_s:
            while self._times and self._times[0][0] < now_s - WINDOW_S:
                self._times.popleft()
            durations = sorted(duration for _, duration in self._times)
            self._p95_s = durations[int(0.95 * (len(durations) - 1))] if len(durations) >= MIN_TIMED else None
            self._known_until_s = now_s + 1.0
        return self._p95_s


def ways_down(mode: ModeSettings, model: str, modes: Mapping[str, ModeSettings]) -> Iterator[tuple[ModeSettings, str]]:
    """Mode and model of each step down: later candidates of the mode, then those of the modes below, in order."""
    later = mode.candidates[mode.candidates.index(model) + 1 :] if model in mode.candidates else mode.candidates
    yield from ((mode, candidate) for candidate in later)
    seen = {mode.name}
    below = modes.get(mode.downshift_to or "")
    while below is not None and below.name not in seen:
        seen.add(below.name)
        yield from ((below, candidate) for candidate in below.candidates if candidate != model)
        below = modes.get(below.downshift_to or "")
