"""Finds new checkpoints, has each scored once, and says which is best: the one loop around the pure parts.

What it needs of the world comes in: who scores, a clock, the store. It starts nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from opentelemetry.trace import Span, SpanContext, TraceFlags

from serve_app.compare.board import Board, board, boards_json, write_board_file
from serve_app.compare.finder import Record, Seen, State, due
from serve_app.compare.questions import questions_digest, questions_of
from serve_app.compare.run_score import never_null_step
from serve_app.compare.scan import scan
from serve_app.compare.score import CheckpointScore
from serve_app.compare.store import ComparisonStore
from serve_app.errors import CheckpointRefused
from serve_app.logs import logger
from serve_app.training.checkpoints import Verified, verify_checkpoint
from serve_app.training.deployed import read_deployed
from serve_app.training.sources import models_folder
from serve_app.turns import Bell
from tracing import names
from tracing.propagation import parse_traceparent
from tracing.setup import Exporting
from tracing.spans import fail, operation

EVERY_S: Final = 60.0
MAX_CALLBACKS: Final = 16


class Scorer(Protocol):
    async def score(self, path: Path, model: str) -> CheckpointScore | str:
        """The score, or why this checkpoint cannot have one. Raises: anything, when the job is at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A checkpoint whose bytes are right. `test_set` is of the questions it will be asked."""

    verified: Verified
    step: int
    test_set: str


class ComparisonService:
    """`limit`: of the test set, only so many questions; as the scorer is told. Use from one event loop."""

    def __init__(
        self,
        *,
        home: Path,
        store: ComparisonStore,
        scorer: Scorer,
        clock: Callable[[], float],
        limit: int | None = None,
        is_wanted: Callable[[Seen, Sequence[Seen]], bool] = lambda _one, _all: True,
        exporting: Exporting | None = None,
        folders: Callable[[], Mapping[str, Path]] = dict,
    ) -> None:
        """`is_wanted` says of one checkpoint, among all that are there, whether it is worth a scoring.

        `folders` are those of models that lie outside the home, by model.
        """
        self._home = home
        self._folders = folders
        self._is_wanted = is_wanted
        self._store = store
        self._scorer = scorer
        self._clock = clock
        self._limit = limit
        self._exporting = exporting
        self._bell = Bell()
        self._callbacks: list[Callable[[Board], None]] = []

    def noticed(self) -> None:
        """Somebody says that a checkpoint was written, that a test set changed, or that another one serves now."""
        self._bell.ring()

    def on_ranked(self, callback: Callable[[Board], None]) -> None:
        """Called with a model's board after each change of it; its `advice` says what to roll out. Must not block."""
        assert len(self._callbacks) < MAX_CALLBACKS
        self._callbacks.append(callback)

    async def run(self) -> None:
        """For ever: looks now, at every notice, and at the latest after 60 s."""
        await self._bell.turns(self.turn, every_s=EVERY_S, what="looking for checkpoints")

    async def turn(self) -> None:
        """Looks at all that is due, each once, one after another; a newer one that comes meanwhile goes first."""
        await self._tell_files()
        tried: set[tuple[str, str]] = set()
        while True:
            seen = await asyncio.to_thread(self._scanned)
            self._store.only(one.path for one in seen)
            todo = [one for one in self._due(seen) if (one.path, one.stamp) not in tried]
            if not todo:
                return
            tried.add((todo[0].path, todo[0].stamp))
            record = await self._looked_at(todo[0])
            self._store.save(record)
            _log.info("checkpoint looked at", path=record.path, state=record.state.value, reason=record.reason)
            await self._tell_files()
            self._tell(self.board(record.model))

    def board(self, model: str) -> Board:
        """As it is known now."""
        records = [record for record in self._store.records().values() if record.model == model]
        found = (
            self._store.score(model, record.weights_version, record.test_set)
            for record in records
            if record.weights_version
        )
        scores = {score.weights_version: score for score in found if score is not None}
        ours = models_folder(self._home) / model
        deployed = read_deployed(ours if ours.is_dir() else self._folders().get(model, ours))
        return board(model, records, scores, deployed=None if deployed is None else str(deployed))

    def boards(self) -> tuple[Board, ...]:
        models = {record.model for record in self._store.records().values()}
        return tuple(self.board(model) for model in sorted(models))

    async def pending(self, model: str) -> bool:
        """Whether a checkpoint of the model waits to be looked at."""
        seen = await asyncio.to_thread(self._scanned)
        return any(one.model == model for one in self._due(seen))

    def _scanned(self) -> tuple[Seen, ...]:
        return scan(self._home, self._folders())

    def _due(self, seen: Sequence[Seen]) -> list[Seen]:
        return [one for one in due(seen, self._store.records()) if self._is_wanted(one, seen)]

    async def _looked_at(self, seen: Seen) -> Record:
        record = Record(model=seen.model, path=seen.path, stamp=seen.stamp, state=State.REFUSED, at_s=self._clock())
        try:
            candidate = await asyncio.to_thread(self._candidate, Path(seen.path))
        except CheckpointRefused as refused:
            return replace(record, reason=str(refused))
        record = replace(
            record,
            step=candidate.step,
            weights_version=candidate.verified.weights_version,
            test_set=candidate.test_set,
        )
        if self._store.score(seen.model, candidate.verified.weights_version, candidate.test_set) is not None:
            return replace(record, state=State.SCORED)
        return await self._scored(seen, candidate, record)

    async def _scored(self, seen: Seen, candidate: _Candidate, record: Record) -> Record:
        facts = {names.MODEL: seen.model, names.WEIGHTS_VERSION: candidate.verified.weights_version}
        with operation(names.COMPARE_SPAN.format(seen.model), facts, exporting=self._exporting) as span:
            manifest = candidate.verified.manifest
            _link(span, manifest.traceparent if manifest else None)
            try:
                found = await self._scorer.score(Path(seen.path), seen.model)
                if isinstance(found, CheckpointScore):
                    _check_same(found, candidate)
            except Exception as error:  # noqa: BLE001 - whatever ends a job is kept as its reason
                fail(span, type(error).__name__)
                return self._failed(seen, record, f"Its scoring failed: {error!s}"[:1000])
            record = replace(record, at_s=self._clock())
            if isinstance(found, str):
                fail(span, "checkpoint_refused")
                return replace(record, reason=found)
            self._store.save_score(found, at_s=record.at_s)
            span.set_attribute(names.ACCURACY, found.accuracy)
            return replace(record, state=State.SCORED)

    def _failed(self, seen: Seen, record: Record, reason: str) -> Record:
        before = self._store.records().get(seen.path)
        again = before is not None and before.stamp == seen.stamp and before.state is State.FAILED
        num_attempts = 1 + (before.num_attempts if before is not None and again else 0)
        return replace(record, state=State.FAILED, reason=reason, num_attempts=num_attempts, at_s=self._clock())

    def _candidate(self, path: Path) -> _Candidate:
        """Reads every byte: in a thread. Raises: CheckpointRefused."""
        verified = verify_checkpoint(path)
        step = never_null_step(verified)
        questions = questions_of(path.parent, is_ours=verified.manifest is not None, limit=self._limit)
        return _Candidate(verified=verified, step=step, test_set=questions_digest(questions))

    async def _tell_files(self) -> None:
        content = boards_json(self.boards(), at_s=self._clock())
        try:
            await asyncio.to_thread(write_board_file, self._home, content)
        except OSError as error:  # the store has it all; the file is made again with the next change
            _log.error("the file of comparisons could not be written", home=str(self._home), error=str(error))

    def _tell(self, told: Board) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(told)
            except Exception as error:  # noqa: BLE001 - theirs, of any kind
                _log.error("who was told of a ranking failed", model=told.model, error=repr(error))


def _check_same(score: CheckpointScore, candidate: _Candidate) -> None:
    """What was scored is what was looked at. Raises: ValueError."""
    found = (score.weights_version, score.test_set)
    wanted = (candidate.verified.weights_version, candidate.test_set)
    if found != wanted:
        raise ValueError(f"weights and test set {found} were scored, not {wanted}")


def is_one_of_several(one: Seen, seen: Sequence[Seen]) -> bool:
    """A model's only checkpoint has nothing to be compared with, and starting an engine for it would be for nothing."""
    return sum(other.model == one.model for other in seen) > 1


def _link(span: Span, traceparent: str | None) -> None:
    """To the run that made the checkpoint, whose trace is another one."""
    parent = parse_traceparent(traceparent.encode()) if traceparent else None
    if parent is not None:
        flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
        span.add_link(SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, flags))


_log = logger("headroom.compare")
