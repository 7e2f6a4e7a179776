"""Comparison and goals in the controller: each new checkpoint is scored by a job of our own, goals become jobs.

Puts `compare`, `goals` and `jobs` together; what is decided stands there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from placement.codec import from_json_value
from placement.inventory import DeviceKind
from serve_app.compare.run_score import ScoreConfig
from serve_app.compare.score import CheckpointScore
from serve_app.compare.service import ComparisonService, is_one_of_several
from serve_app.compare.store import ComparisonStore
from serve_app.config.settings import ModelSettings
from serve_app.controller.bringup import Bringup
from serve_app.controller.job_desk import JobDesk
from serve_app.controller.lessons import Lessons
from serve_app.controller.store import Store
from serve_app.errors import HeadroomError
from serve_app.goals.goal import JobState, JobWanted, Strategy
from serve_app.goals.rest import GoalPages
from serve_app.goals.service import FromComparisons, GoalService, JobReport
from serve_app.goals.store import GoalStore
from serve_app.jobs.job import Job, JobKind, JobReason, JobSpec
from serve_app.jobs.job import JobState as RunState
from serve_app.jobs.messages import Saved
from serve_app.jobs.service import JobRefusal
from serve_app.jobs.wire import TRAINER, TRAINER_BYTES
from serve_app.logs import logger
from serve_app.training.checkpoints import read_manifest
from serve_app.training.defaults import DEFAULT_MODELS
from serve_app.training.deployed import read_deployed
from serve_app.training.sources import checkpoint_folders, folders_left_out, models_folder

SCORE_PRIORITY: Final = 900
"""New weights that wait to be judged hold up a rollout; other jobs wait a minute for it."""
_LOOK_S: Final = 0.5
_SCORE_S: Final = 900.0
_KV_CACHE_BYTES: Final = 64 * 2**20
_SEQS: Final = 8
_STEPS: Final = 200
_RATES: Final = {JobKind.TRAIN: 4e-3, JobKind.REINFORCE: 5e-4}
"""The trainer's own defaults, which a goal's jobs are relative to."""


class ComparisonDesk:
    """Hears of jobs itself: a saved checkpoint is looked at, an end may be what a goal waits for."""

    def __init__(self, *, store: Store, bringup: Bringup, jobs: Callable[[], JobDesk], lessons: Lessons) -> None:
        self._bringup = bringup
        self._lessons = lessons
        self._jobs = jobs
        self.home = bringup.settings.storage.home
        self._told = set[Path]()
        self.scores = ComparisonStore(store.connection)
        self.service = ComparisonService(
            home=self.home,
            store=self.scores,
            scorer=self,
            clock=time.time,
            is_wanted=is_one_of_several,
            folders=self._folders,
        )
        self.goals = GoalService(
            store=GoalStore(store.connection),
            jobs=self,
            comparisons=FromComparisons(self.service),
            clock=time.time,
        )
        self.goal_pages = GoalPages(
            service=self.goals,
            has_model=lambda name: (models_folder(self.home) / name).is_dir(),
            clock=time.time,
            new_id=_new_goal_id,
        )

    def _folders(self) -> dict[str, Path]:
        """Of the models whose source is a folder of checkpoints outside the home."""
        settings = self._bringup.settings
        sources = [model.source for model in settings.models]
        for folder in folders_left_out(sources, storage=settings.storage):
            if folder not in self._told:
                self._told.add(folder)
                _log.warning("new checkpoints here are not compared: another model has its name", folder=str(folder))
        return checkpoint_folders(sources, storage=settings.storage)

    # -- a job's observer ----------------------------------------------------------------------------

    def saved(self, job: Job, saved: Saved) -> None:
        self.service.noticed()

    def over(self, job: Job) -> None:
        self.service.noticed()
        self.goals.noticed()

    # -- what comparison asks ------------------------------------------------------------------------

    async def score(self, path: Path, model: str) -> CheckpointScore | str:
        """Raises: HeadroomError when the job, not the checkpoint, is at fault."""
        job = self._jobs().service.submit(self._score_spec(path, model))
        if isinstance(job, JobRefusal):
            raise HeadroomError(job.message)
        job = await self._over(job.id)
        if job.state is RunState.SUCCEEDED:
            return from_json_value(CheckpointScore, json.loads(job.result)["score"], path="score")
        if job.reason is JobReason.SAID_SO:
            return job.message
        raise HeadroomError(f"Scoring {path} failed: {job.message}")

    def _score_spec(self, path: Path, model: str) -> JobSpec:
        served = self._served_from(path.parent)
        inventory = self._bringup.state.inventory
        config = ScoreConfig(
            checkpoint=path,
            model=model,
            dtype=served.dtype if served else "auto",
            max_model_len=served.max_model_len if served else 512,
            max_num_seqs=_SEQS,
            kv_cache_bytes=_KV_CACHE_BYTES,
            device_kind=inventory.devices[0].kind if inventory else DeviceKind.HOST,
        )
        return JobSpec(
            kind=JobKind.SCORE,
            command=(sys.executable, "-m", "serve_app.compare.run_score"),
            num_bytes=self._bringup.settings.training.compare_bytes,
            model=model,
            config=config.model_dump_json(),
            priority=SCORE_PRIORITY,
        )

    def _served_from(self, folder: Path) -> ModelSettings | None:
        weights = self._bringup.state.weights
        models = self._bringup.settings.models
        return next((one for one in models if one.id in weights and weights[one.id].path.parent == folder), None)

    async def _over(self, job_id: str) -> Job:
        until_s = time.monotonic() + _SCORE_S
        while time.monotonic() < until_s:
            view = self._jobs().service.show(job_id)
            if isinstance(view, JobRefusal):
                raise HeadroomError(view.message)
            if view.job.is_over:
                return view.job
            await asyncio.sleep(_LOOK_S)
        self._jobs().service.cancel(job_id)
        raise HeadroomError(f"Scoring was not done within {_SCORE_S:.0f} s; its job {job_id} is cancelled.")

    # -- what goals ask ------------------------------------------------------------------------------

    async def submit(self, job: JobWanted, *, priority: int, key: str) -> str:
        kind = JobKind.REINFORCE if job.strategy is Strategy.REINFORCE else JobKind.TRAIN
        config: dict[str, Any] = {
            "kind": kind.value,
            "model": job.model,
            "home": str(self.home),
            "steps": max(1, round(_STEPS * job.steps_scale)),
            "seed": job.seed,
            "learning_rate": _RATES[kind] * job.learning_rate_scale,
            **self._begin(job),
        }
        if learned := self._lessons.setting(job.model):
            config["curriculum"] = learned
        spec = JobSpec(
            kind=kind,
            command=TRAINER,
            num_bytes=TRAINER_BYTES,
            model=job.model,
            config=json.dumps(config),
            priority=priority,
        )
        answer = self._jobs().service.submit(spec, job_id=f"job-{hashlib.sha256(key.encode()).hexdigest()[:12]}")
        if isinstance(answer, JobRefusal):
            raise HeadroomError(answer.message)
        return answer.id

    def _begin(self, job: JobWanted) -> dict[str, str]:
        """From the checkpoint it should go on from, else from what serves, else from nothing with a size of ours."""
        manifest = read_manifest(Path(job.parent)) if job.parent is not None else None
        if manifest is not None:
            return {"from": manifest.weights_version}
        if read_deployed(models_folder(self.home) / job.model) is not None:
            return {"from": "deployed"}
        return {"from": "nothing", "size": job.model if job.model in DEFAULT_MODELS else "mini"}

    async def report(self, job_id: str) -> JobReport:
        view = self._jobs().service.show(job_id)
        if isinstance(view, JobRefusal):
            return JobReport(state=JobState.UNKNOWN)
        states = {
            RunState.SUCCEEDED: JobState.DONE,
            RunState.FAILED: JobState.FAILED,
            RunState.CANCELLED: JobState.FAILED,
        }
        live: Mapping[str, float] = view.live.metrics if view.live else {}
        return JobReport(state=states.get(view.job.state, JobState.ACTIVE), reward=live.get("reward_average"))

    async def cancel(self, job_id: str) -> None:
        self._jobs().service.cancel(job_id)


def _new_goal_id() -> str:
    return f"goal-{time.time_ns():x}"


_log = logger("headroom.compare")
