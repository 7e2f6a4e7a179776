"""What scaling is judged by, as samples: counts in force, and signals from metrics and polls of devices.

Reads only. A figure that nobody told is left out, which the policy takes for neither high nor low.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from placement.signals import DeviceSignals, Poll
from serve_app.config.settings import ModelSettings, Settings
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle
from serve_app.controller.scaled_counts import ScaledCounts
from serve_app.scaling.policy import Sample
from serve_app.scaling.recent import RecentMean, RecentQuantile
from serve_app.scaling.rules import MAX_REPLICAS, Kind, Limits, Signal, Target
from tracing import names
from tracing.metrics import HistogramTotals, Labels

GATEWAY: Final = Target(kind=Kind.GATEWAY)
TRAINERS: Final = Target(kind=Kind.TRAINER)


class Figures(Protocol):
    """Totals of all processes, as `tracing.collector.Collector` has them."""

    def gauges(self, metric: names.Gauge) -> Mapping[Labels, float]: ...

    def histograms(self, metric: names.Histogram) -> Mapping[Labels, HistogramTotals]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Where the figures come from, each read anew at every measurement. `settings` are those in force."""

    settings: Callable[[], Settings]
    figures: Callable[[], Figures]
    polls: Callable[[], Mapping[str, Poll]]
    """By device id."""
    num_jobs_waiting: Callable[[], int]
    ledger: Ledger
    lifecycle: Lifecycle


class ScalingSight:
    """One owner: the loop that measures. Keeps what it needs for means and quantiles of the last while."""

    def __init__(self, seen: Seen, counts: ScaledCounts) -> None:
        self._seen = seen
        self._counts = counts
        self._cpu = RecentMean[Labels]()
        self._compute = RecentMean[str]()
        self._overhead = RecentQuantile[Labels](names.GATEWAY_OVERHEAD.buckets)
        self._first_token = RecentQuantile[Labels](names.TIME_TO_FIRST_TOKEN.buckets)

    def samples(self, *, num_gateways: int | None, now_s: float) -> tuple[Sample, ...]:
        """`now_s` is monotonic. `num_gateways` None: nobody knows now, so the gateways are left out."""
        figures = self._seen.figures()
        gateway = () if num_gateways is None else (self._gateway(figures, num_gateways, now_s),)
        return (*gateway, *self._engines(figures, now_s), self._trainers())

    def num_jobs(self) -> int:
        """How many jobs may run at once."""
        return self._counts.of(TRAINERS, configured=self._most_jobs()).count

    def configured(self, target: Target) -> int:
        """The count that cluster.yaml names. Raises: KeyError for a model that is not in it."""
        match target.kind:
            case Kind.GATEWAY:
                return self._seen.settings().gateway.num_replicas
            case Kind.TRAINER:
                return self._most_jobs()
            case Kind.ENGINE:
                return {model.id: model.num_configured for model in self._seen.settings().models}[target.model]

    # -- each kind -----------------------------------------------------------------------------------

    def _gateway(self, figures: Figures, num_replicas: int, now_s: float) -> Sample:
        cpu = self._cpu.add(figures.gauges(names.GATEWAY_CPU), now_s=now_s)
        overhead = self._overhead.add(_counts(figures.histograms(names.GATEWAY_OVERHEAD)), now_s=now_s)
        memory = figures.gauges(names.GATEWAY_MEMORY)
        values = {
            Signal.CPU: _mean(cpu.values()),
            Signal.OVERHEAD_S: overhead.get(()),
            Signal.MEMORY: max(memory.values(), default=None),
        }
        return self._sample(GATEWAY, num_replicas, values)

    def _engines(self, figures: Figures, now_s: float) -> Iterator[Sample]:
        first_token = self._first_token.add(_counts(figures.histograms(names.TIME_TO_FIRST_TOKEN)), now_s=now_s)
        queued = figures.gauges(names.REQUESTS_QUEUED)
        polls = {name: poll for name, poll in self._seen.polls().items() if isinstance(poll, DeviceSignals)}
        utilizations = {name: poll.utilization for name, poll in polls.items() if poll.utilization is not None}
        compute = self._compute.add(utilizations, now_s=now_s)
        for model in self._seen.settings().models:
            devices = self._devices(model)
            values = {
                Signal.QUEUE: queued.get((model.id,)),
                Signal.COMPUTE: _mean([compute[name] for name in devices & compute.keys()]),
                Signal.MEMORY: max(
                    (polls[name].used_bytes / polls[name].total_bytes for name in devices & polls.keys()), default=None
                ),
                Signal.FIRST_TOKEN_S: first_token.get((model.id,)),
            }
            num_replicas = 0 if model.id in self._seen.lifecycle.resting else model.num_replicas
            yield self._sample(Target(kind=Kind.ENGINE, model=model.id), num_replicas, values)

    def _trainers(self) -> Sample:
        return self._sample(TRAINERS, self.num_jobs(), {Signal.QUEUED_JOBS: float(self._seen.num_jobs_waiting())})

    # -- parts ---------------------------------------------------------------------------------------

    def _sample(self, target: Target, num_replicas: int, values: Mapping[Signal, float | None]) -> Sample:
        return Sample(
            target=target,
            num_replicas=num_replicas,
            configured=self._counts.of(target, configured=self.configured(target)).base,
            values={signal: value for signal, value in values.items() if value is not None},
        )

    def _devices(self, model: ModelSettings) -> set[str]:
        slots = (slot for slot in self._seen.ledger.slots.values() if slot.model == model.id)
        return {seat.device for slot in slots for seat in slot.seats}

    def _most_jobs(self) -> int:
        """As many as `scaling.trainers` allows; where it says nothing, as many as find room."""
        limits = self._seen.settings().scaling.limits.get(TRAINERS.name, Limits())
        return MAX_REPLICAS if limits.max_replicas is None else limits.max_replicas


def _counts(totals: Mapping[Labels, HistogramTotals]) -> dict[Labels, Sequence[int]]:
    return {labels: one.counts for labels, one in totals.items()}


def _mean(values: Collection[float]) -> float | None:
    return sum(values) / len(values) if values else None
