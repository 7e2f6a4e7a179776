"""One client asks two servers in turns, request by request: what the one adds to the other.

Both requests of a pair come within a fraction of a second, so what else the machine does hits both alike, and the
difference is told apart from an engine whose own time wanders by far more from minute to minute.
"""

from __future__ import annotations

import http.client
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from urllib.parse import urlsplit

from tests.bench.http_load import VARIED
from tests.bench.rounds import Way, WrongAnswers

_WARM_UP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Median difference of ours less base, and between which values it lies with 95 % confidence."""

    num_pairs: int
    base_median_ms: float
    ours_median_ms: float
    added_ms: float
    low_ms: float
    high_ms: float


def ask_in_pairs(base: Way, ours: Way, *, num_pairs: int) -> Pairs:
    """Asks each server once per pair, who is first by turns. Raises WrongAnswers."""
    sides = [_Side(base), _Side(ours)]
    for side in sides:
        for _ in range(_WARM_UP):
            side.ask_ms()
    took: list[tuple[float, float]] = []
    for number in range(num_pairs):
        if number % 2:
            took.append((sides[0].ask_ms(), sides[1].ask_ms()))
        else:
            second = sides[1].ask_ms()
            took.append((sides[0].ask_ms(), second))
    for side in sides:
        side.connection.close()
    return summed_up(took)


def summed_up(took: Sequence[tuple[float, float]]) -> Pairs:
    """`took` has a pair of milliseconds each: base, ours. The interval is that of order statistics."""
    added = sorted(ours - base for base, ours in took)
    reach = 0.98 * sqrt(len(added))
    low, high = (int(len(added) / 2 + sign * reach) for sign in (-1, 1))
    return Pairs(
        num_pairs=len(took),
        base_median_ms=statistics.median(base for base, _ in took),
        ours_median_ms=statistics.median(ours for _, ours in took),
        added_ms=statistics.median(added),
        low_ms=added[max(0, low)],
        high_ms=added[min(len(added) - 1, high)],
    )


class _Side:
    def __init__(self, way: Way) -> None:
        target = urlsplit(way.url)
        self.connection = http.client.HTTPConnection(target.netloc, timeout=60)
        self._path = target.path
        self._way = way

    def ask_ms(self) -> float:
        body = self._way.body.replace(VARIED.encode(), b"%08d" % random.randrange(10**8))
        began_s = time.perf_counter()
        self.connection.request("POST", self._path, body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise WrongAnswers(f"{self._way.name} answered {answer.status}")
        return 1e3 * (time.perf_counter() - began_s)
