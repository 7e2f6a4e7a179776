"""What one process counts: cells that cost tens of nanoseconds, and the report it makes of them.

A report carries running totals, not differences, and a sequence number. So a report that is lost, repeated or
late does no harm, and a control plane that starts anew has the whole again after one report of each source.
Merging is in `collector.py`. Cells belong to one event loop (or one thread); they take no locks.
"""

from __future__ import annotations

import secrets
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tracing import names
from tracing.names import Metric

Labels = tuple[str, ...]
Key = tuple[str, Labels]
"""Metric name and label values in the order of its declaration."""

_MAX_SERIES = 4096
_MAX_SERIES_PER_VALUE = 16
"""A metric of 1,024 devices may have this many series for each: the longest list, of XIDs, has 13."""


@dataclass(frozen=True, slots=True)
class HistogramTotals:
    """`counts` per bucket, not cumulative, the last one above all bounds; `total` is the sum of what was observed."""

    counts: tuple[int, ...]
    total: float

    def __add__(self, other: HistogramTotals) -> HistogramTotals:
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return HistogramTotals(counts, self.total + other.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """State of `source` at its `sequence`-th report, taken at `at_s` (Unix time). Picklable.

    A source's id is of one process's life: a restarted process is another source.
    """

    source: str
    sequence: int
    at_s: float
    counters: Mapping[Key, float]
    gauges: Mapping[Key, float]
    histograms: Mapping[Key, HistogramTotals]


class CounterCell:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        assert amount >= 0, "a counter never falls"
        self.value += amount


class GaugeCell:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def dec(self, amount: float = 1.0) -> None:
        self.value -= amount


class HistogramCell:
    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class LabelBounds:
    """Keeps label values few: beyond a metric's cap a new value becomes `other`, beyond all series every label does."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], set[str]] = {}
        self._places: dict[str, set[Labels]] = {}

    def admit(self, metric: Metric, labels: Labels) -> Labels:
        """The labels under which to count. Remembers, so that a series never changes its place.

        Raises: ValueError if there are not as many values as the metric has labels.
        """
        places = self._places.setdefault(metric.name, set())
        if labels in places:
            return labels
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has labels {metric.labels}, got {labels!r}")
        place = tuple(self._value(metric, index, value) for index, value in enumerate(labels))
        if place not in places and len(places) >= max(_MAX_SERIES, _MAX_SERIES_PER_VALUE * metric.max_values):
            return (names.OTHER,) * len(labels)
        places.add(place)
        return place

    def _value(self, metric: Metric, index: int, value: str) -> str:
        seen = self._values.setdefault((metric.name, index), set())
        if value in seen or value == names.OTHER:
            return value
        if len(seen) >= metric.max_values:
            return names.OTHER
        seen.add(value)
        return value

    def drop(self, metric: Metric, labels: Labels) -> None:
        """Give the place back, and each value that no other place has."""
        places = self._places.get(metric.name, set())
        places.discard(labels)
        for index, value in enumerate(labels):
            if all(place[index] != value for place in places):
                self._values.get((metric.name, index), set()).discard(value)

    def forget(self, metric: Metric) -> None:
        """Let a gauge begin anew with the values it has now."""
        self._places.pop(metric.name, None)
        for index in range(len(metric.labels)):
            self._values.pop((metric.name, index), None)


_Cell = TypeVar("_Cell", CounterCell, GaugeCell, HistogramCell)


class Recorder:
    """The metrics of one process. Keep the cell of a hot series instead of asking for it each time."""

    def __init__(self, source: str, *, clock: Callable[[], float] = time.time) -> None:
        self.source = f"{source}:{secrets.token_hex(6)}"
        self._clock = clock
        self._sequence = 0
        self._bounds = LabelBounds()
        self._counters: dict[Key, CounterCell] = {}
        self._gauges: dict[Key, GaugeCell] = {}
        self._histograms: dict[Key, HistogramCell] = {}

    def counter(self, metric: names.Counter, *labels: str) -> CounterCell:
        cell = self._counters.get((metric.name, labels))
        return cell or self._new(self._counters, metric, labels, CounterCell)

    def gauge(self, metric: names.Gauge, *labels: str) -> GaugeCell:
        cell = self._gauges.get((metric.name, labels))
        return cell or self._new(self._gauges, metric, labels, GaugeCell)

    def histogram(self, metric: names.Histogram, *labels: str) -> HistogramCell:
        cell = self._histograms.get((metric.name, labels))
        return cell or self._new(self._histograms, metric, labels, lambda: HistogramCell(metric.buckets))

    def _new(self, cells: dict[Key, _Cell], metric: Metric, labels: Labels, make: Callable[[], _Cell]) -> _Cell:
        key = (metric.name, self._bounds.admit(metric, labels))
        if key not in cells:
            cells[key] = make()
        return cells[key]

    def drop(self, metric: names.Counter | names.Histogram, *labels: str) -> None:
        """End a series of a metric that `passes`. A cell kept of it counts no more."""
        assert metric.passes, "totals of other metrics never fall"
        cells = self._counters if isinstance(metric, names.Counter) else self._histograms
        if cells.pop((metric.name, labels), None) is not None:
            self._bounds.drop(metric, labels)

    def replace(self, metric: names.Gauge, values: Mapping[Labels, float]) -> None:
        """Make `values` the only series of a gauge: what is not named is no longer reported, its cells are dead."""
        self._bounds.forget(metric)
        for key in [key for key in self._gauges if key[0] == metric.name]:
            del self._gauges[key]
        for labels, value in values.items():
            self.gauge(metric, *labels).set(value)

    def drain(self) -> tuple[Delta, ...]:
        """What to send to the control plane now; send it again, or not at all, as the network will have it."""
        self._sequence += 1
        return (
            Delta(
                source=self.source,
                sequence=self._sequence,
                at_s=self._clock(),
                counters={key: cell.value for key, cell in self._counters.items()},
                gauges={key: cell.value for key, cell in self._gauges.items()},
                histograms={
                    key: HistogramTotals(tuple(cell.counts), cell.total) for key, cell in self._histograms.items()
                },
            ),
        )
