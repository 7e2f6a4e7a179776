"""Metrics of devices: what a poll of the fleet saw, as gauges and counters of one `Recorder`.

Takes plain values of its own; what a device is, and what follows from its values, stands elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tracing import names
from tracing.metrics import Labels, Recorder

_AT_WORK = frozenset({"healthy", "degraded", "throttled"})
"""States in which a device takes new shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One device as one poll saw it. What is None was not read, or is not offered, and gets no series."""

    node: str
    device: str
    uuid: str
    is_up: bool
    """Whether this poll could read it."""
    health: str
    """One of `names.HEALTH_STATES`."""
    is_cordoned: bool = False
    product: str = ""
    driver: str = ""
    total_bytes: int
    used_bytes: int | None = None
    planned_bytes: int = 0
    leased_bytes: int = 0
    foreign_bytes: int | None = None
    """Used by processes that are not ours."""
    temperature_c: float | None = None
    slowdown_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilization: float | None = None
    energy_j: float | None = None
    """As the driver counts it; may start again at 0."""
    ecc_corrected: int | None = None
    """As the driver counts it; may start again at 0."""
    ecc_uncorrected: int | None = None
    throttle_reasons: frozenset[str] | None = None
    """Of `names.THROTTLE_REASONS`; others count as `other`."""
    xids: tuple[int, ...] = ()
    """Events since the poll before."""
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    recovery_action: int | None = None
    failure_risks: tuple[tuple[str, float], ...] = ()
    """Horizon, e.g. `15m`, and risk 0 to 1."""

    @property
    def place(self) -> Labels:
        return (self.node, self.device)


class DeviceMetrics:
    """Call `polled` once per poll of the whole fleet: events in a sample are counted each time it is handed in."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._seen: dict[tuple[str, Labels, str], float] = {}

    def polled(self, samples: Sequence[DeviceSample]) -> None:
        """Bring every series of devices up to these samples. A device that is not among them has left."""
        gauges: dict[names.Gauge, dict[Labels, float]] = {metric: {} for metric in _GAUGES}
        for sample in samples:
            for metric, labels, value in _facts(sample):
                if value is not None:
                    gauges[metric][sample.place + labels] = float(value)
        gauges[names.CLUSTER_DEVICES] = _by_state(samples)
        for metric, values in gauges.items():
            self._recorder.replace(metric, values)
        for sample in samples:
            self._count(sample)
        uuids = {sample.uuid for sample in samples}
        self._seen = {key: value for key, value in self._seen.items() if key[2] in uuids}

    def _count(self, sample: DeviceSample) -> None:
        for metric, labels, value in _totals(sample):
            if value is not None:
                self._advance(metric, sample.place + labels, value, uuid=sample.uuid)
        for xid in names.XIDS:
            self._recorder.counter(names.DEVICE_XID_ERRORS, *sample.place, xid)
        for event in sample.xids:
            label = str(event) if str(event) in names.XIDS else names.OTHER
            self._recorder.counter(names.DEVICE_XID_ERRORS, *sample.place, label).inc()

    def _advance(self, metric: names.Counter, labels: Labels, total: float, *, uuid: str) -> None:
        """Count what was added since the poll before: nothing at first sight, all of it where the total began anew."""
        key = (metric.name, labels, uuid)
        before = self._seen.get(key, total)
        self._seen[key] = total
        self._recorder.counter(metric, *labels).inc(total if total < before else total - before)


_Fact = tuple[names.Gauge, Labels, float | None]
_GAUGES = tuple(
    metric
    for metric in names.METRICS.values()
    if isinstance(metric, names.Gauge) and metric.labels[:2] == names.DEVICE_LABELS
)


def _facts(sample: DeviceSample) -> Iterator[_Fact]:
    """Gauges of a device; labels are those after node and device."""
    yield names.DEVICE_UP, (sample.uuid,), sample.is_up
    yield names.DEVICE_INFO, (sample.uuid, sample.product, sample.driver), 1
    yield from _memory(sample)
    yield names.DEVICE_TEMPERATURE, (), sample.temperature_c
    yield names.DEVICE_SLOWDOWN, (), sample.slowdown_c
    yield names.DEVICE_POWER, (), sample.power_w
    yield names.DEVICE_POWER_LIMIT, (), sample.power_limit_w
    yield names.DEVICE_UTILIZATION, (), sample.utilization
    yield names.DEVICE_ROW_REMAP_PENDING, (), sample.row_remap_pending
    yield names.DEVICE_ROW_REMAP_FAILURE, (), sample.row_remap_failed
    yield names.DEVICE_RECOVERY_ACTION, (), sample.recovery_action
    for state in names.HEALTH_STATES:
        yield names.DEVICE_HEALTH_STATE, (state,), state == sample.health
    if sample.throttle_reasons is not None:
        active = {reason if reason in names.THROTTLE_REASONS else names.OTHER for reason in sample.throttle_reasons}
        for reason in names.THROTTLE_REASONS:
            yield names.DEVICE_THROTTLE_ACTIVE, (reason,), reason in active
    for horizon, risk in sample.failure_risks:
        yield names.DEVICE_FAILURE_RISK, (horizon,), risk


def _memory(sample: DeviceSample) -> Iterator[_Fact]:
    yield names.DEVICE_MEMORY, ("total",), sample.total_bytes
    yield names.DEVICE_MEMORY, ("used",), sample.used_bytes
    yield names.DEVICE_MEMORY, ("planned",), sample.planned_bytes
    yield names.DEVICE_MEMORY, ("leased",), sample.leased_bytes
    yield names.DEVICE_MEMORY, ("foreign",), sample.foreign_bytes
    if sample.used_bytes is not None and sample.total_bytes > 0:
        yield names.DEVICE_HEADROOM, (), max(0, sample.total_bytes - sample.used_bytes) / sample.total_bytes


def _totals(sample: DeviceSample) -> Iterator[tuple[names.Counter, Labels, float | None]]:
    yield names.DEVICE_ENERGY, (), sample.energy_j
    yield names.DEVICE_ECC_ERRORS, ("corrected",), sample.ecc_corrected
    yield names.DEVICE_ECC_ERRORS, ("uncorrected",), sample.ecc_uncorrected


def _by_state(samples: Sequence[DeviceSample]) -> dict[Labels, float]:
    states = Counter(_cluster_state(sample) for sample in samples)
    states["total"] = len(samples)
    return {(state,): float(states[state]) for state in ("total", "available", "allocated", "unhealthy", "cordoned")}


def _cluster_state(sample: DeviceSample) -> str:
    if not sample.is_up or sample.health not in _AT_WORK:
        return "unhealthy"
    if sample.planned_bytes + sample.leased_bytes > 0:
        return "allocated"
    return "cordoned" if sample.is_cordoned else "available"
