"""Figures of the last while: means of what is read in instants, quantiles of what is counted for ever. Pure.

A mean or a quantile of a key begins anew when its readings stopped coming.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Final, Generic, TypeVar

MEAN_S: Final = 30.0
"""An instant says little of how busy something is, and one idle instant would end a hold of minutes."""
QUANTILE_S: Final = 60.0
K = TypeVar("K", bound=Hashable)


class RecentMean(Generic[K]):
    def __init__(self) -> None:
        self._seen: dict[K, deque[tuple[float, float]]] = {}

    def add(self, values: Mapping[K, float], *, now_s: float) -> dict[K, float]:
        """The mean of each of these over the last `MEAN_S`, this reading included."""
        self._seen = {key: self._seen.get(key, deque()) for key in values}
        for key, seen in self._seen.items():
            seen.append((now_s, values[key]))
            while seen[0][0] <= now_s - MEAN_S:
                seen.popleft()
        return {key: sum(value for _, value in seen) / len(seen) for key, seen in self._seen.items()}


class RecentQuantile(Generic[K]):
    """`bounds` are the upper ends of the buckets; one more bucket is above them all."""

    def __init__(self, bounds: Sequence[float], *, quantile: float = 0.95) -> None:
        self._bounds = bounds
        self._quantile = quantile
        self._seen: dict[K, deque[tuple[float, Sequence[int]]]] = {}

    def add(self, totals: Mapping[K, Sequence[int]], *, now_s: float) -> dict[K, float]:
        """`totals` are counts per bucket since ever. Only keys for which something was observed in `QUANTILE_S`.

        Within a bucket observations are taken to lie evenly; above the highest bound its own value is the answer.
        """
        self._seen = {key: self._seen.get(key, deque()) for key in totals}
        found = {}
        for key, seen in self._seen.items():
            seen.append((now_s, totals[key]))
            while len(seen) > 1 and seen[1][0] <= now_s - QUANTILE_S:
                seen.popleft()
            counts = [after - before for before, after in zip(seen[0][1], totals[key], strict=True)]
            if sum(counts) > 0:
                found[key] = self._value(counts)
        return found

    def _value(self, counts: Sequence[int]) -> float:
        below = list(accumulate(counts))
        rank = self._quantile * below[-1]
        bucket = bisect_left(below, rank)
        if bucket == len(self._bounds):
            return self._bounds[-1]
        low = self._bounds[bucket - 1] if bucket else 0.0
        within = (rank - (below[bucket] - counts[bucket])) / counts[bucket]
        return low + (self._bounds[bucket] - low) * within
