"""The scheduled tests in the controller: what serves is asked its test set, and what comes of it goes where it helps.

A regression becomes an alert, failures the lessons of the next job, calibration a metric; all of it one page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from placement.health_rules import RuleName
from serve_app.compare.live_report import live_json, run_json, write_live_file
from serve_app.compare.live_runs import Live, LiveRuns, LiveRunStore, Serving
from serve_app.compare.live_schedule import LiveRun, Regression, Schedule
from serve_app.compare.questions import Question, questions_digest, questions_of
from serve_app.compare.store import ComparisonStore
from serve_app.controller.bringup import Bringup
from serve_app.controller.claims import Weights
from serve_app.controller.lessons import Lessons
from serve_app.controller.model_alerts import ModelAlerts
from serve_app.errors import CheckpointRefused
from serve_app.logs import logger
from serve_app.training.checkpoints import read_manifest
from serve_app.turns import kept
from tracing.live_metrics import LiveTestMetrics

_TURN_S: Final = 60.0


class LiveTests:
    """`answers` says whether a model does now, `on_regression` hears of each new one.

    `compare.live_runs.Served` and `Listener`.
    """

    def __init__(
        self,
        *,
        bringup: Bringup,
        store: LiveRunStore,
        scores: ComparisonStore,
        live: Live,
        answers: Callable[[str], bool],
        lessons: Lessons,
        alerts: ModelAlerts,
        metrics: LiveTestMetrics,
        on_regression: Callable[[], None],
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._bringup = bringup
        self._store = store
        self._scores = scores
        self._answers = answers
        self._lessons = lessons
        self._alerts = alerts
        self._metrics = metrics
        self._on_regression = on_regression
        self._clock = clock
        self._is_told = False
        """Whether the file says what the newest runs found."""
        self.runs = LiveRuns(
            schedules=self._schedules,
            store=store,
            live=live,
            served=self,
            listener=self,
            clock=clock,
            pause=pause,
        )

    async def run(self) -> None:
        """For ever; where no test is wanted, what earlier ones found holds no longer, and it ends."""
        if not self._bringup.settings.training.test_every_s:
            self._alerts.only(RuleName.ROLLOUT_REGRESSION, ())
            return
        while True:
            await asyncio.sleep(_TURN_S)
            await kept(self.turn, what="the scheduled tests")

    async def turn(self) -> None:
        await self.runs.turn()
        self._alerts.only(RuleName.ROLLOUT_REGRESSION, {model.id for model in self._bringup.settings.models})
        await self._tell()

    def page(self) -> dict[str, Any]:
        """The newest run of each model, by model."""
        regressed = self._alerts.models(RuleName.ROLLOUT_REGRESSION)
        return {
            model: run_json(
                run,
                is_regression=model in regressed,
                tallies=self._lessons.tallies(_folder(weights)),
            )
            for model, weights in sorted(self._bringup.state.weights.items())
            if (run := self._store.last(model)) is not None
        }

    # -- what runs ask -------------------------------------------------------------------------------

    def version(self, model: str) -> str | None:
        weights = self._bringup.state.weights.get(model)
        return weights.version if weights is not None and self._answers(model) else None

    async def serving(self, model: str) -> Serving | None:
        weights = self._bringup.state.weights.get(model)
        if weights is None:
            return None
        try:
            questions = await asyncio.to_thread(_questions, weights.path)
        except (CheckpointRefused, OSError) as error:
            _log.info("what serves has no test set", model=model, reason=str(error))
            return None
        recorded = self._scores.score(_folder(weights), weights.version, questions_digest(questions))
        return Serving(weights_version=weights.version, recorded=recorded, questions=questions)

    def asked(self, run: LiveRun, served: Serving, found: Regression | None) -> None:
        self._is_told = False
        weights = self._bringup.state.weights.get(run.model)
        if weights is not None:
            self._lessons.learned(_folder(weights), served.questions, run.right, weights=run.weights_version)
        if found is None:
            self._alerts.cleared(RuleName.ROLLOUT_REGRESSION, run.model)
        elif self._alerts.raised(RuleName.ROLLOUT_REGRESSION, run.model, found.message):
            self._on_regression()

    # -- inside --------------------------------------------------------------------------------------

    def _schedules(self) -> tuple[Schedule, ...]:
        every_s = self._bringup.settings.training.test_every_s
        return tuple(Schedule(model=model, every_s=every_s) for model in sorted(self._bringup.state.weights))

    async def _tell(self) -> None:
        runs = (self._store.last(model) for model in self._bringup.state.weights)
        self._metrics.show(
            {(run.model, run.weights_version): run.calibration.raw_error for run in runs if run and run.calibration}
        )
        if self._is_told:
            return
        content, home = live_json(self.page(), at_s=self._clock()), self._bringup.settings.storage.home
        try:
            await asyncio.to_thread(write_live_file, home, content)
            self._is_told = True
        except OSError as error:  # the store has it all; the file is made again with the next turn
            _log.error("the file of scheduled tests could not be written", home=str(home), error=str(error))


def _folder(weights: Weights) -> str:
    return weights.path.parent.name


def _questions(checkpoint: Path) -> tuple[Question, ...]:
    """Raises: CheckpointRefused, OSError."""
    return questions_of(checkpoint.parent, is_ours=read_manifest(checkpoint) is not None)


_log = logger("headroom.learning")
