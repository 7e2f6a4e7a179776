"""What the engines answered, by weights version: the figures by which a rollout judges a canary.

A version is shown, at 0, from the table that first names it. The last ones that left the table stay; of an older one
the series end, and what still comes of it is counted under `other`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from serve_app.api.errors import Outcome
from serve_app.gateway.run_terms import Report
from tracing import names
from tracing.metrics import CounterCell, HistogramCell, Recorder

MAX_LEFT: Final = 16
"""Versions that no table names any more and whose series stay, over all models."""
BLAMELESS: Final = frozenset({"client_too_slow"})
"""Failures that say nothing of the engine."""
_JUDGED: Final = (Outcome.SUCCESS, Outcome.ERROR, Outcome.TIMEOUT)
Served = tuple[str, str]
"""Model and weights version."""
_Cells = tuple[dict[Outcome, CounterCell], HistogramCell]


class VersionMeters:
    """One owner: a gateway's event loop."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._cells: dict[Served, _Cells] = {}
        self._left: dict[Served, None] = {}

    def expect(self, served: Iterable[Served]) -> None:
        """The versions of a new table."""
        now = dict.fromkeys(served)
        self._left = {one: None for one in (*self._left, *self._cells) if one not in now}
        most_left = max(0, min(MAX_LEFT, names.ANSWERS.max_values - 1 - len(now)))
        for one in list(self._left)[: max(0, len(self._left) - most_left)]:
            self._drop(one)
        for one in now:
            if one not in self._cells:
                self._cells[one] = self._made(*one)

    def ended(self, model: str, version: str, report: Report) -> None:
        """Count one engine run; not what the caller spoiled or gave up, nor what no engine was asked."""
        outcome = _judgement(report)
        if outcome is None:
            return
        counters, duration = self._cells.get((model, version)) or self._made(model, names.OTHER)
        counters[outcome].inc()
        if outcome is Outcome.SUCCESS:
            duration.observe(report.duration_s)

    def _made(self, model: str, version: str) -> _Cells:
        counters = {one: self._recorder.counter(names.ANSWERS, model, version, one.value) for one in _JUDGED}
        return counters, self._recorder.histogram(names.ANSWER_DURATION, model, version)

    def _drop(self, one: Served) -> None:
        del self._left[one], self._cells[one]
        for outcome in _JUDGED:
            self._recorder.drop(names.ANSWERS, *one, outcome.value)
        self._recorder.drop(names.ANSWER_DURATION, *one)


def _judgement(report: Report) -> Outcome | None:
    """None: says nothing of the weights."""
    if report.cancelled or report.backend is None:
        return None
    if report.failure is None:
        return Outcome.SUCCESS
    outcome = report.failure.outcome
    return outcome if outcome in _JUDGED and report.failure.code not in BLAMELESS else None
