"""What rollouts show of themselves as spans and metrics, made from the records as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serve_app.rollout.record import OVER, Record, Stage
from serve_app.rollout.triggers import TriggerKind
from tracing import names
from tracing.road_spans import RoadSpan, begin_road
from tracing.rollout_metrics import RolloutMetrics
from tracing.setup import Exporting
from tracing.spans import Value

_RESULTS: Final[Mapping[Stage, str]] = {
    Stage.FINISHED: "finished",
    Stage.RETURNED: "rolled_back",
    Stage.REFUSED: "refused",
}


class RolloutSpans:
    """`rollout {model}` with a child for each stage; `context` is what the work of the present stage is done under.

    The span of the whole ends when the new weights have settled, or nothing came of them: an observation takes a day,
    and what led to it must be readable before. After a restart of the controller the stages go on in the same trace.
    """

    def __init__(self, *, exporting: Exporting | None = None) -> None:
        self._exporting = exporting
        self._id: int | None = None
        self._stage: Stage | None = None
        self._road: RoadSpan | None = None
        self._open: RoadSpan | None = None

    def context(self) -> str | None:
        return self._open.traceparent if self._open is not None else None

    def begin(self, record: Record) -> str | None:
        """Before the rollout is written; its `traceparent`, to be kept in the record."""
        self._id, self._stage = None, None
        name = names.ROLLOUT_SPAN.format(record.model)
        self._road = begin_road(name, links=(record.made_by,), exporting=self._exporting)
        return self._road.traceparent

    def __call__(self, record: Record) -> None:
        if (record.id, record.stage) == (self._id, self._stage):
            return
        self._end_stage(record)
        self._id, self._stage = record.id, record.stage
        if not record.is_over:
            name = names.ROLLOUT_STAGE_SPAN.format(record.stage.value)
            self._open = begin_road(name, parent=record.traceparent, exporting=self._exporting)
        if self._road is not None and (record.is_over or record.stage is Stage.OBSERVING):
            self._road.learned(_facts(record))
            self._road.end(error_type=_error(record))
            self._road = None

    def _end_stage(self, record: Record) -> None:
        if self._open is not None:
            self._open.learned(_facts(record))
            has_failed = record.stage in (Stage.RETURNING, Stage.REFUSED)
            self._open.end(error_type=record.trigger or "rollout_failed" if has_failed else None)
            self._open = None


class RolloutCounts:
    def __init__(self, metrics: RolloutMetrics) -> None:
        self._metrics = metrics
        self._seen: tuple[int, Stage] | None = None

    def __call__(self, record: Record) -> None:
        """The first record seen of a rollout says nothing of stages before: another controller counted those."""
        now, before = (record.id, record.stage), self._seen
        self._seen = now
        if before is None or before == now or before[0] != record.id:
            return
        self._metrics.stage_ended(before[1].value, spent_s=record.stages[-2].spent_s)
        if record.stage is Stage.RETURNING and record.trigger is TriggerKind.QUALITY_WORSE:
            self._metrics.regressed()
        if record.stage in OVER:
            self._metrics.ended(_RESULTS[record.stage])


def _error(record: Record) -> str | None:
    return _RESULTS[record.stage] if record.stage in (Stage.RETURNED, Stage.REFUSED) else None


def _facts(record: Record) -> dict[str, Value]:
    learned = record.learned
    return {
        names.ROLLOUT_ID: record.id,
        names.MODEL: record.model,
        names.WEIGHTS_VERSION: record.new.version,
        names.ROLLOUT_FROM: record.old.version,
        names.ROLLOUT_WAY: learned.way,
        names.ROLLOUT_SCORE: record.score,
        names.ROLLOUT_CANARY_SCORE: learned.canary_accuracy,
        names.ROLLOUT_DIGEST: learned.shipped.digest if learned.shipped else None,
        names.NUM_BYTES: learned.shipped.num_bytes if learned.shipped else None,
        names.ROLLOUT_CLOSED_S: learned.closed_s,
        names.ROLLOUT_VERDICT: record.stage.value if record.is_over else None,
        names.REASON: record.reason or None,
    }
