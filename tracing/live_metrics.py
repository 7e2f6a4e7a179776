"""Metrics of the scheduled tests of what serves. Plain values in, no decisions."""

from __future__ import annotations

from collections.abc import Mapping

from tracing import names
from tracing.metrics import Labels, Recorder


class LiveTestMetrics:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def show(self, errors: Mapping[tuple[str, str], float]) -> None:
        """Calibration error by model and weights version; others have no series any more."""
        rows: dict[Labels, float] = dict(errors.items())
        self._recorder.replace(names.CALIBRATION_ERROR, rows)
