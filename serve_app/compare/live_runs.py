"""Asks the test sets through the live API when they are due, keeps every result, and tells of regressions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from placement.codec import from_json_value, to_json_value
from serve_app.compare.live_schedule import LiveRun, Regression, Schedule, is_wanted, regression
from serve_app.compare.questions import Question, is_right, questions_digest
from serve_app.compare.score import CheckpointScore
from serve_app.errors import HeadroomError
from serve_app.logs import logger
from serve_app.training.calibration import Calibration, Judged, calibrate, confidence_of
from serve_app.training.live import ANSWER_TOKENS
from serve_app.training.self_correction import Message, SelfCorrection, measure_self_correction

MAX_RUNS: Final = 10_000
"""Of all models together, the newest."""
MOST_ASKED: Final = 320
"""Questions of one run, the first of the test set; ours has as many."""
MOST_RETRIED: Final = 32
PACE_S: Final = 1.0
"""Pause before each question: one short answer a second is no load that callers would feel."""
SETTLED_S: Final = 300.0
"""New weights are left alone so long: a canary or a person may yet turn them back."""
AGAIN_S: Final = 600.0
"""After a run that does not count."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS live_runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, at_s REAL NOT NULL, run TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS live_runs_model ON live_runs (model, number);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`logprobs`: one per token, in nats, empty where the engine gives none. `weights_version`: whose answer it is."""

    text: str
    logprobs: tuple[float, ...]
    weights_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What serves a model now: its recorded score (None: not scored yet) and its test set."""

    weights_version: str
    recorded: CheckpointScore | None
    questions: tuple[Question, ...]


class Live(Protocol):
    async def ask(self, model: str, messages: Sequence[Message], *, max_tokens: int) -> Answer:
        """Raises: HeadroomError."""


class Served(Protocol):
    def version(self, model: str) -> str | None:
        """The weights that answer for the model now; None: nothing does."""

    async def serving(self, model: str) -> Serving | None:
        """None: nothing serves, or what does has no test set."""


class Listener(Protocol):
    def asked(self, run: LiveRun, served: Serving, found: Regression | None) -> None:
        """A run that counts; `found` is None when all is well, and when there is nothing to compare with."""


class LiveRunStore:
    """Its own tables of a connection that commits each statement by itself (`isolation_level=None`)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        assert connection.isolation_level is None
        self._db = connection
        self._db.executescript(_SCHEMA)

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

    def last(self, model: str) -> LiveRun | None:
        return next(iter(self.series(model, limit=1)), None)


class LiveRuns:
    """`schedules` of now. Times are of the wall clock; `pause` waits so many seconds."""

    def __init__(
        self,
        *,
        schedules: Callable[[], Sequence[Schedule]],
        store: LiveRunStore,
        live: Live,
        served: Served,
        listener: Listener,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[object]],
    ) -> None:
        self._schedules = schedules
        self._store = store
        self._live = live
        self._served = served
        self._listener = listener
        self._clock = clock
        self._pause = pause
        self._since: dict[str, tuple[str, float]] = {}
        """By model, the weights that serve and when they were first seen to."""
        self._not_before_s: dict[str, float] = {}

    async def turn(self) -> None:
        """Everything that is due, one model after another; call it at least as often as schedules are fine."""
        schedules = self._schedules()
        named = {schedule.model for schedule in schedules}
        self._since = {model: since for model, since in self._since.items() if model in named}
        self._not_before_s = {model: at_s for model, at_s in self._not_before_s.items() if model in named}
        for schedule in schedules:
            if self._is_due(schedule) and await self.run_now(schedule.model) is None:
                again_s = AGAIN_S if schedule.every_s is None else min(AGAIN_S, schedule.every_s)
                self._not_before_s[schedule.model] = self._clock() + again_s

    def _is_due(self, schedule: Schedule) -> bool:
        now_s, version = self._clock(), self._served.version(schedule.model)
        if version is None:
            return False
        known, since_s = self._since.get(schedule.model, ("", now_s))
        if known != version or since_s > now_s:
            self._since[schedule.model] = version, now_s
            return False
        if now_s - since_s < SETTLED_S or now_s < self._not_before_s.get(schedule.model, 0.0):
            return False
        return is_wanted(schedule, self._store.last(schedule.model), weights_version=version, now_s=now_s)

    async def run_now(self, model: str) -> LiveRun | None:
        """None when the run does not count: nothing serves, nothing answered, or other weights did meanwhile."""
        served = await self._served.serving(model)
        if served is None:
            return None
        questions, at_s = served.questions[:MOST_ASKED], self._clock()
        try:
            answers = [await self._answer(model, question, served) for question in questions]
            correction = await self._retried(model, questions, answers)
        except HeadroomError as error:
            _log.warning("a scheduled test set does not count", model=model, error=str(error))
            return None
        graded = [is_right(question, one.text) for question, one in zip(questions, answers, strict=True)]
        run = LiveRun(
            model=model,
            weights_version=served.weights_version,
            test_set=questions_digest(served.questions),
            at_s=at_s,
            right=tuple(graded),
            calibration=_calibration(questions, answers, graded),
            correction=correction,
        )
        self._store.save(run)
        self._listener.asked(run, served, None if served.recorded is None else regression(run, served.recorded))
        return run

    async def _answer(self, model: str, question: Question, served: Serving) -> Answer:
        asked = {"role": "user", "content": question.prompt}
        await self._pause(PACE_S)
        answer = await self._live.ask(model, [asked], max_tokens=question.max_tokens)
        if answer.weights_version != served.weights_version:
            raise HeadroomError(f"{answer.weights_version} answered, and {served.weights_version} was asked.")
        return answer

    async def _retried(self, model: str, questions: Sequence[Question], answers: Sequence[Answer]) -> SelfCorrection:
        async def ask(messages: Sequence[Message]) -> str:
            await self._pause(PACE_S)
            return (await self._live.ask(model, messages, max_tokens=ANSWER_TOKENS)).text

        answered = [(question, one.text) for question, one in zip(questions, answers, strict=True)]
        return await measure_self_correction(answered, ask=ask, most=MOST_RETRIED)


def _calibration(
    questions: Sequence[Question], answers: Sequence[Answer], graded: Sequence[bool]
) -> Calibration | None:
    """By kind, because every other answer is measured: where kinds take turns, half of them would be left out.

    None unless every answer that says something came with its log-probabilities.
    """
    if not any(one.logprobs for one in answers) or any(one.text and not one.logprobs for one in answers):
        return None
    ordered = sorted(zip(questions, answers, graded, strict=True), key=lambda one: one[0].kind)
    return calibrate([Judged(confidence=confidence_of(one.logprobs), right=right) for _, one, right in ordered])


_log = logger("headroom.compare")
