"""The control plane's side of the metrics: reports of many processes become one `/metrics` text.

Totals are monotone whoever comes and goes: a source that is gone keeps its counters here and loses its gauges. Only
series of metrics that pass (`names.Counter.passes`) end, the oldest of them.
For one source the report with the highest sequence counts, so merging is idempotent and its order is without
meaning. Time is an argument.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector as Registered

from tracing import names
from tracing.metrics import Delta, HistogramTotals, Key, LabelBounds, Labels

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_FLEET_FAMILIES = tuple(
    f"headroom_{subject}_".encode()
    for subject in ("device", "cluster", "watch", "model", "weights", "worker", "connection", "build")
)
_MAX_GONE = 512
"""Sources remembered after they went, in case they were only silent; then they are folded into one total."""
_MAX_FOLDED_IDS = 8192


class _Addable(Protocol):
    def __add__(self: _T, other: _T, /) -> _T: ...


_T = TypeVar("_T")
_Total = TypeVar("_Total", float, HistogramTotals)


@dataclass(slots=True)
class _Source:
    latest: Delta
    heard_s: float


class Collector(Registered):
    """Use from one event loop. `render` is the whole body of `/metrics`."""

    def __init__(self, *, version: str) -> None:
        self._version = version
        self._live: dict[str, _Source] = {}
        self._gone: dict[str, Delta] = {}
        self._folded_ids: dict[str, None] = {}
        self._folded_counters: dict[Key, float] = {}
        self._folded_histograms: dict[Key, HistogramTotals] = {}
        self._bounds = LabelBounds()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def declare(self, *, modes: Sequence[str], models: Sequence[str], cache_types: Sequence[str] = ("memory",)) -> None:
        """Create every counter and histogram at 0 for these label values; `names.NO_MODE` is added to the modes."""
        declared = {
            "mode": (*modes, names.NO_MODE),
            "model": tuple(models),
            "cache_type": tuple(cache_types),
            "from": tuple(modes),  # a downshift's; those between models of one mode are too many pairs
            "to": tuple(modes),
        }
        for metric in names.METRICS.values():
            if isinstance(metric, names.Gauge):
                continue
            values = {**declared, **dict(metric.known)}
            if not all(label in values for label in metric.labels):
                continue
            for labels in itertools.product(*(values[label] for label in metric.labels)):
                key = (metric.name, self._bounds.admit(metric, labels))
                if isinstance(metric, names.Counter):
                    self._folded_counters.setdefault(key, 0.0)
                else:
                    self._folded_histograms.setdefault(key, _no_observations(metric))

    def merge(self, deltas: Iterable[Delta], *, now_s: float) -> None:
        """Take reports in. Metrics of another version of the product, which this one does not know, are left out."""
        for delta in deltas:
            if delta.source in self._folded_ids:
                continue
            known = self._live.get(delta.source)
            before = known.latest if known else self._gone.pop(delta.source, None)
            latest = delta if before is None or delta.sequence > before.sequence else before
            self._live[delta.source] = _Source(latest, now_s)

    def forget(self, source: str) -> None:
        """The source is gone: its gauges with it, its counters not. Unknown sources are no error."""
        known = self._live.pop(source, None)
        if known is None:
            return
        self._gone[source] = known.latest
        while len(self._gone) > _MAX_GONE:
            self._fold(next(iter(self._gone)))

    def drop_silent(self, *, now_s: float, silent_s: float) -> tuple[str, ...]:
        """Forget and return the sources not heard of for longer than `silent_s`."""
        silent = tuple(name for name, source in self._live.items() if now_s - source.heard_s > silent_s)
        for name in silent:
            self.forget(name)
        return silent

    def _fold(self, source: str) -> None:
        delta = self._gone.pop(source)
        _add(self._folded_counters, self._placed(delta.counters, names.Counter, _NothingNew()))
        _add(self._folded_histograms, self._placed(delta.histograms, names.Histogram, _NothingNew()))
        self._folded_ids[source] = None
        while len(self._folded_ids) > _MAX_FOLDED_IDS:
            del self._folded_ids[next(iter(self._folded_ids))]

    def counters(self, metric: names.Counter) -> dict[Labels, float]:
        """Totals of one metric over all sources that ever were."""
        return {labels: value for (name, labels), value in self._all_counters().items() if name == metric.name}

    def gauges(self, metric: names.Gauge) -> dict[Labels, float]:
        return {labels: value for (name, labels), value in self._all_gauges().items() if name == metric.name}

    def histograms(self, metric: names.Histogram) -> dict[Labels, HistogramTotals]:
        """Totals of one metric over all sources that ever were."""
        return _of(metric.name, self._all_histograms())

    def render(self) -> bytes:
        """Prometheus text format; serve it as `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        counters, gauges = _by_metric(self._all_counters()), _by_metric(self._all_gauges())
        histograms = _by_metric(self._all_histograms())
        devices = {labels[:2] for labels in gauges.get(names.DEVICE_UP.name, {})}
        for metric in names.METRICS.values():
            match metric:
                case names.Counter():
                    yield _counter_family(metric, _of_devices(metric, counters.get(metric.name, {}), devices))
                case names.Gauge():
                    yield _gauge_family(metric, gauges.get(metric.name, {}))
                case names.Histogram():
                    yield _histogram_family(metric, histograms.get(metric.name, {}))

    def _reports(self) -> list[Delta]:
        """The newest first, so that of values that pass it is the old ones that find no place."""
        reports = [*self._gone.values(), *(source.latest for source in self._live.values())]
        return sorted(reports, key=lambda delta: (delta.at_s, delta.source), reverse=True)

    def _placed(
        self, values: Mapping[Key, _Total], kind: type[names.Counter] | type[names.Histogram], passing: LabelBounds
    ) -> Iterator[tuple[Key, _Total]]:
        """`passing` are the bounds of metrics whose values come and go; those of the others last."""
        for (name, labels), value in reversed(list(values.items())):
            metric = names.METRICS.get(name)
            if isinstance(metric, kind) and len(labels) == len(metric.labels):
                bounds = passing if metric.passes else self._bounds
                yield (name, bounds.admit(metric, labels)), value

    def _all_counters(self) -> dict[Key, float]:
        totals, passing = dict(self._folded_counters), LabelBounds()
        for delta in self._reports():
            _add(totals, self._placed(delta.counters, names.Counter, passing))
        return totals

    def _all_histograms(self) -> dict[Key, HistogramTotals]:
        totals, passing = dict(self._folded_histograms), LabelBounds()
        for delta in self._reports():
            _add(totals, self._placed(delta.histograms, names.Histogram, passing))
        return totals

    def _all_gauges(self) -> dict[Key, float]:
        """Live sources only, the report made last on top. Bounds begin anew, as series of a gauge come and go."""
        totals: dict[Key, float] = {(names.BUILD_INFO.name, (self._version,)): 1.0}
        bounds = LabelBounds()
        in_order = sorted(
            (source.latest for source in self._live.values()), key=lambda delta: (delta.at_s, delta.source)
        )
        for delta in in_order:
            for (name, labels), value in sorted(delta.gauges.items()):
                metric = names.METRICS.get(name)
                if isinstance(metric, names.Gauge) and len(labels) == len(metric.labels):
                    key = (name, bounds.admit(metric, labels))
                    totals[key] = totals.get(key, 0.0) + value if metric.merge is names.Merge.SUM else value
        return {**totals, **self._hit_rates()}

    def _hit_rates(self) -> dict[Key, float]:
        counters = self._all_counters()
        hits, misses = _of(names.CACHE_HITS.name, counters), _of(names.CACHE_MISSES.name, counters)
        rates = {}
        for labels in sorted({*hits, *misses}):
            looked = hits.get(labels, 0.0) + misses.get(labels, 0.0)
            rates[(names.CACHE_HIT_RATE.name, labels)] = hits.get(labels, 0.0) / looked if looked else math.nan
        return rates


class _NothingNew(LabelBounds):
    """For sources gone for so long that what passes has passed: all of it is `other`."""

    def admit(self, metric: names.Metric, labels: Labels) -> Labels:
        return (names.OTHER,) * len(labels)


def fleet_families(page: bytes) -> bytes:
    """Of a page that `Collector.render` made, the families of devices, models and infrastructure."""
    start = b"# HELP "
    families = (b"\n" + page).split(b"\n" + start)[1:]
    return b"".join(start + family.rstrip(b"\n") + b"\n" for family in families if family.startswith(_FLEET_FAMILIES))


def _add(totals: dict[Key, _Total], values: Iterable[tuple[Key, _Total]]) -> None:
    for key, value in values:
        known = totals.get(key)
        totals[key] = value if known is None else known + value


def _of(name: str, values: Mapping[Key, _T]) -> dict[Labels, _T]:
    return {labels: value for (metric, labels), value in values.items() if metric == name}


def _by_metric(values: Mapping[Key, _T]) -> dict[str, dict[Labels, _T]]:
    found: dict[str, dict[Labels, _T]] = {}
    for (name, labels), value in values.items():
        found.setdefault(name, {})[labels] = value
    return found


def _of_devices(metric: names.Counter, values: dict[Labels, float], devices: set[Labels]) -> dict[Labels, float]:
    """A device that left loses its series, as it does in gauges. Its totals stay here, and go on when it is back."""
    if metric.labels[:2] != names.DEVICE_LABELS:
        return values
    return {labels: value for labels, value in values.items() if labels[:2] in devices}


def _no_observations(metric: names.Histogram) -> HistogramTotals:
    return HistogramTotals((0,) * (len(metric.buckets) + 1), 0.0)


def _counter_family(metric: names.Counter, values: Mapping[Labels, float]) -> Family:
    family = CounterMetricFamily(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _gauge_family(metric: names.Gauge, values: Mapping[Labels, float]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _histogram_family(metric: names.Histogram, values: Mapping[Labels, HistogramTotals]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
    for labels, totals in sorted(values.items()):
        cumulative = list(itertools.accumulate(totals.counts))
        family.add_metric(labels, list(zip(bounds, map(float, cumulative), strict=True)), totals.total)
    return family
