"""The comparisons of a model as one value, and the file that people and other programs read. Pure but for writing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from serve_app.compare.finder import Record
from serve_app.compare.json_file import write_json
from serve_app.compare.score import CheckpointScore
from serve_app.compare.verdict import Outcome, Verdict, judge, ranked
from serve_app.training.evaluate import wilson_interval

FILE_NAME: Final = "model_comparisons.json"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One checkpoint. What is None was not found: no score, no rank, nothing to be judged against."""

    record: Record
    score: CheckpointScore | None
    verdict: Verdict | None
    rank: int | None
    deployed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One model: its checkpoints, ranked ones first and best first."""

    model: str
    lines: tuple[Line, ...]

    @property
    def advice(self) -> Verdict | None:
        """The best checkpoint that is better than what serves; None when none is."""
        better = (line.verdict for line in self.lines if line.verdict and line.verdict.outcome is Outcome.BETTER)
        return next(better, None)


def board(
    model: str, records: Iterable[Record], scores: Mapping[str, CheckpointScore], *, deployed: str | None
) -> Board:
    """`scores` by weights version, `deployed` the path that serves.

    Ranked is what was asked the same test set as what serves, or as the last one scored where nothing that serves was.
    """
    ordered = sorted(records, key=lambda record: (record.step is None, -(record.step or 0), record.path))
    found = ((record, scores.get(record.weights_version or "")) for record in ordered)
    scored = [(record, score) for record, score in found if score is not None]
    base = next((score for record, score in scored if record.path == deployed), None)
    latest = max(scored, key=lambda pair: pair[0].at_s, default=None)
    test_set = base.test_set if base else latest[1].test_set if latest else ""
    places = _places(score for _, score in scored if score.test_set == test_set)
    lines = [_line(record, scores, base, places, deployed) for record in ordered]
    return Board(model=model, lines=tuple(sorted(lines, key=lambda line: (line.rank is None, line.rank or 0))))


def _places(scores: Iterable[CheckpointScore]) -> dict[str, int]:
    """Rank by weights version: two directories of the same weights share one."""
    distinct = {score.weights_version: score for score in scores}
    return {score.weights_version: place for place, score in enumerate(ranked(distinct.values()), start=1)}


def _line(
    record: Record,
    scores: Mapping[str, CheckpointScore],
    base: CheckpointScore | None,
    places: Mapping[str, int],
    deployed: str | None,
) -> Line:
    version = record.weights_version or ""
    score = scores.get(version)
    is_other = score is not None and base is not None and score.weights_version != base.weights_version
    return Line(
        record=record,
        score=score,
        verdict=judge(score, base) if is_other and score and base else None,
        rank=places.get(version),
        deployed=record.path == deployed,
    )


def boards_json(boards: Iterable[Board], *, at_s: float) -> dict[str, Any]:
    """The whole file. Paths as they are, times in ISO 8601 and UTC."""
    models = {one.model: [_line_json(line) for line in one.lines] for one in boards}
    return {"format_version": FORMAT_VERSION, "made_at": _when(at_s), "models": models}


def write_board_file(home: Path, content: Mapping[str, Any]) -> None:
    """Raises: OSError."""
    write_json(home / "status" / FILE_NAME, content)


def _line_json(line: Line) -> dict[str, Any]:
    record, score = line.record, line.score
    return {
        "path": record.path,
        "step": record.step,
        "weights_version": record.weights_version,
        "state": record.state.value,
        "reason": record.reason or None,
        "deployed": line.deployed,
        "rank": line.rank,
        "looked_at": _when(record.at_s),
        "score": None if score is None else _score_json(score),
        "verdict": None if line.verdict is None else _verdict_json(line.verdict),
    }


def _score_json(score: CheckpointScore) -> dict[str, Any]:
    low, high = wilson_interval(sum(score.right), len(score.right))
    return {
        "accuracy": score.accuracy,
        "low": low,
        "high": high,
        "num_right": sum(score.right),
        "num_asked": len(score.right),
        "loss": score.loss,
        "format_share": score.format_share,
        "latency_s": score.latency_s,
        "test_set": score.test_set,
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    found = verdict.difference
    facts = None if found is None else {"value": found.value, "low": found.low, "high": found.high}
    return {
        "outcome": verdict.outcome.value,
        "against": verdict.old.weights_version,
        "difference": facts,
        "worse_in": list(verdict.worse_in),
        "sentence": verdict.sentence,
    }


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
