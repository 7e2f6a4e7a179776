"""The files that tell of jobs: `training_status.json` and the weekly `settings_review.json`."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.controller.training_status import MOST_JOBS, TrainingStatus
from serve_app.controller.weekly_review import FILE_NAME, WeeklyReview
from serve_app.jobs import changes
from serve_app.jobs.book import JobBook
from serve_app.jobs.job import Job, JobKind, JobReason, JobState, Moment
from serve_app.jobs.settings_review import DAY_S, settings_review
from serve_app.rollout.status_files import TRAINING_STATUS
from tests.serve_app.jobs.world import World, progress, saved, script

NOW_S = 1e9
SETTINGS = {"learning_rate": 1e-3, "entropy_weight": 0.003, "clip_range": 0.2}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "state.sqlite")
    yield made
    await made.service.close()


def status_of(world: World, folder: Path) -> TrainingStatus:
    return TrainingStatus(folder, jobs=lambda: world.service, clock=lambda: NOW_S)


def read(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / TRAINING_STATUS).read_bytes())
    return told


class TestTrainingStatus:
    async def test_tells_of_every_job_where_it_stands_and_what_it_learned(self, world: World, tmp_path: Path) -> None:
        job, status = world.submit(), status_of(world, tmp_path)
        await world.round()
        world.run(job).say(saved(5))
        world.run(job).say(progress(7))
        await world.settle()
        await status.turn()
        (entry,) = read(tmp_path)["jobs"]
        assert (entry["id"], entry["state"], entry["step"]) == (job, "running", 7)
        assert set(entry) >= {"loss", "reward_average", "test_accuracy", "checkpoint", "weights_version", "started"}

    async def test_is_written_for_changes_and_while_something_runs_and_else_not(
        self, world: World, tmp_path: Path
    ) -> None:
        status = status_of(world, tmp_path)
        await status.turn()
        (tmp_path / TRAINING_STATUS).unlink()
        await status.turn()
        assert not (tmp_path / TRAINING_STATUS).exists()
        world.submit()
        status.changed()
        await status.turn()
        assert len(read(tmp_path)["jobs"]) == 1

    async def test_hears_of_every_change_that_is_written_down(self, world: World) -> None:
        heard: list[str] = []
        book = JobBook(world.ledger, now=lambda: Moment(0.0, 0.0), changed=lambda: heard.append("changed"))
        job = book.put(changes.submitted("job-x", script(), at=Moment(0.0, 0.0)))
        await book.change(job.id, lambda now: changes.cancelled(now, message="No more.", at=Moment(1.0, 1.0)))
        assert heard == ["changed", "changed"]

    async def test_a_file_that_cannot_be_written_is_due_still(self, world: World, tmp_path: Path) -> None:
        folder = tmp_path / "status"
        folder.write_text("in the way")
        status = status_of(world, folder)
        with pytest.raises(OSError):
            await status.turn()
        folder.unlink()
        await status.turn()
        assert read(folder)["jobs"] == []

    async def test_holds_the_newest_jobs_alone(self, world: World, tmp_path: Path) -> None:
        for _ in range(MOST_JOBS + 2):
            world.submit()
        await status_of(world, tmp_path).turn()
        ids = [entry["id"] for entry in read(tmp_path)["jobs"]]
        assert (len(ids), ids[0]) == (MOST_JOBS, f"job-{MOST_JOBS + 2}")


def reinforced(world: World, *, gain: float, ended_s: float, rate: float = 1e-3) -> None:
    """One that has ended."""
    number = next(world.numbers)
    result = {"kind": "reinforce", "settings": {**SETTINGS, "learning_rate": rate}, "gain": gain}
    moment = Moment(ended_s, ended_s)
    world.ledger.put(
        Job(
            id=f"job-{number}",
            spec=replace(script(), kind=JobKind.REINFORCE),
            state=JobState.SUCCEEDED,
            reason=JobReason.DONE,
            message="Done.",
            submitted=moment,
            queued=moment,
            ended=moment,
            result=json.dumps(result),
        )
    )


class TestSettingsReview:
    async def test_is_of_the_reinforcements_of_its_days_and_advises_only_what_was_tried_often(
        self, world: World
    ) -> None:
        for gain, rate in ((0.1, 1e-3), (0.3, 2e-3)):
            for _ in range(3):
                reinforced(world, gain=gain, rate=rate, ended_s=NOW_S - DAY_S)
        reinforced(world, gain=0.9, rate=3e-3, ended_s=NOW_S - 8 * DAY_S)
        found = settings_review(world.service, days=7, unix_s=NOW_S)
        assert (found["num_runs"], found["advice"]) == (6, {"learning_rate": 2e-3})
        assert [(one["setting"], one["value"], one["num_runs"]) for one in found["effects"]][:2] == [
            ("learning_rate", 2e-3, 3),
            ("learning_rate", 1e-3, 3),
        ]

    async def test_is_written_once_a_week(self, world: World, tmp_path: Path) -> None:
        path = tmp_path / FILE_NAME
        review = WeeklyReview(tmp_path, jobs=world.service, clock=lambda: NOW_S)
        await review.turn()
        assert json.loads(path.read_bytes())["num_runs"] == 0
        reinforced(world, gain=0.1, ended_s=NOW_S)
        for age_s, num_runs in ((7 * DAY_S - 1, 0), (7 * DAY_S, 1)):
            os.utime(path, (NOW_S - age_s, NOW_S - age_s))
            await review.turn()
            assert json.loads(path.read_bytes())["num_runs"] == num_runs
