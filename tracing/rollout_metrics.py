"""Metrics of rollouts. Plain values in, no decisions."""

from __future__ import annotations

from tracing import names
from tracing.metrics import Recorder


class RolloutMetrics:
    """Every result and stage is counted from 0."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        for result in names.ROLLOUT_RESULTS:
            recorder.counter(names.ROLLOUTS, result)

    def ended(self, result: str) -> None:
        """`result`: finished, rolled_back or refused."""
        self._recorder.counter(names.ROLLOUTS, result).inc()

    def regressed(self) -> None:
        """A test set scored worse than what serves was deployed with."""
        self._recorder.counter(names.ROLLOUTS, "regressed").inc()

    def stage_ended(self, stage: str, *, spent_s: float) -> None:
        self._recorder.histogram(names.ROLLOUT_STAGE, stage).observe(spent_s)
