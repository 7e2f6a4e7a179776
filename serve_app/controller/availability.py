"""Answered requests and the good ones among them, from what gateways report. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serve_app.api.errors import Outcome
from tracing import names
from tracing.metrics import Delta

GOOD: Final = frozenset({Outcome.SUCCESS.value})
BAD: Final = frozenset({Outcome.ERROR.value, Outcome.TIMEOUT.value})
"""Other outcomes are not counted: what a caller did wrong or gave up says nothing of us, nor does what a limit shed."""
_MAX_SOURCES: Final = 1024
_OUTCOME: Final = names.INFERENCE_REQUESTS.labels.index("outcome")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    num_good: int = 0
    num_total: int = 0

    def __add__(self, other: Answered) -> Answered:
        return Answered(num_good=self.num_good + other.num_good, num_total=self.num_total + other.num_total)

    def __sub__(self, other: Answered) -> Answered:
        return Answered(num_good=self.num_good - other.num_good, num_total=self.num_total - other.num_total)


class Availability:
    """Remembers the newest report of each source; beyond `max_sources`, those not heard of for longest are forgotten.

    A source that is first met in a later report than its first one has told its totals to a controller before us:
    only what comes on top is counted.
    """

    def __init__(self, *, max_sources: int = _MAX_SOURCES) -> None:
        self._max_sources = max_sources
        self._newest: dict[str, tuple[int, Answered]] = {}

    def saw(self, deltas: Iterable[Delta]) -> Answered:
        """What these reports tell that none before did. Lost, repeated and late ones do no harm."""
        return sum((self._news(delta) for delta in deltas), Answered())

    def _news(self, delta: Delta) -> Answered:
        totals = _totals(delta)
        first = (0, Answered()) if delta.sequence == 1 else (0, totals)
        sequence, before = self._newest.pop(delta.source, first)
        newest = (delta.sequence, totals) if delta.sequence > sequence else (sequence, before)
        self._newest[delta.source] = newest
        if len(self._newest) > self._max_sources:
            del self._newest[next(iter(self._newest))]
        return newest[1] - before


def _totals(delta: Delta) -> Answered:
    counted = [
        (labels[_OUTCOME], round(value))
        for (metric, labels), value in delta.counters.items()
        if metric == names.INFERENCE_REQUESTS.name
    ]
    num_good = sum(count for outcome, count in counted if outcome in GOOD)
    return Answered(num_good=num_good, num_total=num_good + sum(count for outcome, count in counted if outcome in BAD))
