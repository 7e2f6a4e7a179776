"""Metrics of jobs, and what a training tells of itself while it runs. Plain values in, no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tracing import names
from tracing.metrics import Labels, Recorder

REQUEUED: Final = "requeued"
NO_MODEL: Final = "none"
_TOLD: Final = {
    "loss": names.TRAINING_LOSS,
    "reward": names.TRAINING_REWARD,
    "reward_average": names.TRAINING_REWARD_AVERAGE,
    "entropy": names.TRAINING_ENTROPY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """What one running job told last; of its `metrics` those that have a name here are shown."""

    kind: str
    model: str | None
    step: int
    metrics: Mapping[str, float]


class JobMetrics:
    """Everything that is counted begins at 0 for each kind of job."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        for kind in names.JOB_KINDS:
            for counter in (names.JOBS_SUBMITTED, names.JOBS_SCHEDULED, names.JOB_PREEMPTIONS):
                recorder.counter(counter, kind)
            recorder.histogram(names.JOB_WAIT, kind)
            for result in names.JOB_RESULTS:
                recorder.counter(names.JOBS_FINISHED, kind, result)
        self.show({})

    def submitted(self, kind: str) -> None:
        self._recorder.counter(names.JOBS_SUBMITTED, kind).inc()

    def scheduled(self, kind: str, *, wait_s: float) -> None:
        self._recorder.counter(names.JOBS_SCHEDULED, kind).inc()
        self._recorder.histogram(names.JOB_WAIT, kind).observe(wait_s)

    def preempted(self, kind: str) -> None:
        self._recorder.counter(names.JOB_PREEMPTIONS, kind).inc()

    def ran(self, kind: str, *, result: str, run_s: float) -> None:
        """One attempt; `result` is one of `names.JOB_RESULTS`, or `REQUEUED`."""
        self._recorder.histogram(names.JOB_RUN, kind, result).observe(run_s)

    def finished(self, kind: str, *, result: str) -> None:
        self._recorder.counter(names.JOBS_FINISHED, kind, result).inc()

    def show(self, by_kind_and_state: Mapping[tuple[str, str], int]) -> None:
        """How many jobs there are; 0 for those left out."""
        none: dict[Labels, float] = {(kind, state): 0.0 for kind in names.JOB_KINDS for state in names.JOB_STATES}
        self._recorder.replace(names.JOBS, none | {labels: float(n) for labels, n in by_kind_and_state.items()})

    def training(self, samples: Iterable[TrainingSample]) -> None:
        """Jobs that run now, the one that started last at the end; others have no series any more."""
        shown: dict[str, dict[Labels, float]] = {name: {} for name in ("step", *_TOLD)}
        for one in samples:
            labels = (one.kind, one.model or NO_MODEL)
            shown["step"][labels] = float(one.step)
            for name in _TOLD.keys() & one.metrics.keys():
                shown[name][labels] = one.metrics[name]
        self._recorder.replace(names.TRAINING_STEP, shown["step"])
        for name, gauge in _TOLD.items():
            self._recorder.replace(gauge, shown[name])
