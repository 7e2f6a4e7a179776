"""Runs the test sets through the live API when they are due, keeps every result, and tells of regressions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from placement.codec import from_json_value, to_json_value
from serve_app.compare.live_schedule import LiveRun, Regression, Schedule, failures_by_kind, is_due, regression
from serve_app.compare.questions import Question, is_right, questions_digest
from serve_app.compare.score import CheckpointScore
from serve_app.errors import HeadroomError
from serve_app.logs import logger
from serve_app.training.live import ask_all

MAX_RUNS: Final = 10_000
"""Of all models together, the newest."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS live_runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, at_s REAL NOT NULL, run TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS live_runs_model ON live_runs (model, number);
CREATE TABLE IF NOT EXISTS live_tries (model TEXT PRIMARY KEY, at_s REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What serves a model now: its recorded score (None: not scored yet) and its test set."""

    weights_version: str
    recorded: CheckpointScore | None
    questions: tuple[Question, ...]


class Live(Protocol):
    async def ask(self, model: str, questions: Sequence[Question]) -> Sequence[str]:
        """One text per question. Raises: HeadroomError."""


class Feedback(Protocol):
    def failed(self, model: str, failures: Mapping[str, int]) -> None:
        """Wrong answers by kind of task, for the data of the next job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveApi:
    """The product's own address, asked as anybody asks it; the cache is bypassed."""

    base_url: str
    api_key: str
    concurrency: int

    async def ask(self, model: str, questions: Sequence[Question]) -> Sequence[str]:
        texts: dict[int, str] = {}
        for max_tokens in sorted({question.max_tokens for question in questions}):
            places = [place for place, one in enumerate(questions) if one.max_tokens == max_tokens]
            said = await ask_all(
                [questions[place] for place in places],
                model=model,
                base_url=self.base_url,
                api_key=self.api_key,
                concurrency=self.concurrency,
                on_answer=lambda: None,
                max_tokens=max_tokens,
            )
            texts.update(zip(places, said, strict=True))
        return [texts[place] for place in range(len(questions))]


class LiveRunStore:
    """Its own tables of a connection that commits each statement by itself (`isolation_level=None`)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        assert connection.isolation_level is None
        self._db = connection
        self._db.executescript(_SCHEMA)

    def tried(self, model: str, *, at_s: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO live_tries VALUES (?, ?)", (model, at_s))

    def last_try_s(self, model: str) -> float | None:
        row = self._db.execute("SELECT at_s FROM live_tries WHERE model = ?", (model,)).fetchone()
        return None if row is None else float(row[0])

    def save(self, run: LiveRun) -> None:
        row = (run.model, run.at_s, json.dumps(to_json_value(run)))
        self._db.execute("INSERT INTO live_runs (model, at_s, run) VALUES (?, ?, ?)", row)
        self._db.execute("DELETE FROM live_runs WHERE number <= (SELECT MAX(number) FROM live_runs) - ?", (MAX_RUNS,))

    def series(self, model: str, *, limit: int = 100) -> tuple[LiveRun, ...]:
        """Newest first."""
        rows = self._db.execute(
            "SELECT run FROM live_runs WHERE model = ? ORDER BY number DESC LIMIT ?", (model, limit)
        ).fetchall()
        return tuple(from_json_value(LiveRun, json.loads(text), path="live_runs") for (text,) in rows)


class LiveRuns:
    """`serving` says what serves a model; `on_regression` hears each run's finding, None when all is well."""

    def __init__(
        self,
        *,
        schedules: Sequence[Schedule],
        store: LiveRunStore,
        live: Live,
        serving: Callable[[str], Serving | None],
        feedback: Feedback,
        on_regression: Callable[[str, Regression | None], None],
        clock: Callable[[], float],
    ) -> None:
        self._schedules = tuple(schedules)
        self._store = store
        self._live = live
        self._serving = serving
        self._feedback = feedback
        self._on_regression = on_regression
        self._clock = clock

    async def turn(self) -> None:
        """Everything that is due, one model after another; call it at least as often as schedules are fine."""
        for schedule in self._schedules:
            if is_due(schedule, last_s=self._store.last_try_s(schedule.model), now_s=self._clock()):
                await self.run_now(schedule.model)

    async def run_now(self, model: str) -> LiveRun | None:
        """None when nothing serves, the API did not answer, or the weights changed meanwhile: the next time counts."""
        at_s = self._clock()
        self._store.tried(model, at_s=at_s)
        before = self._serving(model)
        if before is None:
            return None
        try:
            texts = await self._live.ask(model, before.questions)
        except HeadroomError as error:
            _log.warning("a scheduled test set was not answered", model=model, error=str(error))
            return None
        after = self._serving(model)
        if after is None or after.weights_version != before.weights_version:
            _log.info("the weights changed during a scheduled test set; it does not count", model=model)
            return None
        return self._settled(model, before, texts, at_s)

    def _settled(self, model: str, served: Serving, texts: Sequence[str], at_s: float) -> LiveRun:
        run = LiveRun(
            model=model,
            weights_version=served.weights_version,
            test_set=questions_digest(served.questions),
            at_s=at_s,
            right=tuple(is_right(question, text) for question, text in zip(served.questions, texts, strict=True)),
        )
        self._store.save(run)
        self._feedback.failed(model, failures_by_kind(served.questions, run.right))
        if served.recorded is not None:
            self._on_regression(model, regression(run, served.recorded))
        return run


_log = logger("headroom.compare")
