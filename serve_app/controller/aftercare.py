"""What goes on after a rollout, put together: scheduled tests, care for checkpoints, files that tell of jobs."""

from __future__ import annotations

import time

from serve_app.compare.live_runs import Live, LiveRunStore
from serve_app.compare.store import ComparisonStore
from serve_app.controller.bringup import Bringup
from serve_app.controller.checkpoint_care import CheckpointCare
from serve_app.controller.job_desk import JobDesk
from serve_app.controller.ledger import Ledger
from serve_app.controller.lessons import Lessons
from serve_app.controller.live_tests import LiveTests
from serve_app.controller.model_alerts import ModelAlerts
from serve_app.controller.rollout_desk import RolloutDesk
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.controller.turns import Spawn
from serve_app.controller.weekly_review import WeeklyReview


class Aftercare:
    def __init__(
        self,
        *,
        store: Store,
        bringup: Bringup,
        ledger: Ledger,
        telemetry: ControllerTelemetry,
        alerts: ModelAlerts,
        live: Live,
        lessons: Lessons,
        scores: ComparisonStore,
        jobs: JobDesk,
        rollouts: RolloutDesk,
    ) -> None:
        self._jobs = jobs
        self.live_tests = LiveTests(
            bringup=bringup,
            store=LiveRunStore(store.connection),
            scores=scores,
            live=live,
            answers=ledger.answers,
            lessons=lessons,
            alerts=alerts,
            metrics=telemetry.live_tests,
            on_regression=telemetry.rollouts.regressed,
            clock=time.time,
        )
        self._care = CheckpointCare(
            connection=store.connection,
            bringup=bringup,
            alerts=alerts,
            needed=rollouts.needed,
            resumed=jobs.service.resumed,
            clock=time.time,
        )
        status = bringup.settings.storage.home / "status"
        self._review = WeeklyReview(status, jobs=jobs.service, clock=time.time)

    def start(self, spawn: Spawn) -> None:
        for work in (self.live_tests.run(), self._care.run(), self._jobs.status.run(), self._review.run()):
            spawn(work)
