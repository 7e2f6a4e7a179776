"""Jobs that are told to make way: they hear it with the reason, are waited for, and go on from their checkpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serve_app.controller.guest import Guest, Stay
from serve_app.controller.preemption_desk import PreemptionDesk
from serve_app.fleet.process_memory import JOB_MARK
from serve_app.jobs.job import JobReason, JobState
from tests.serve_app.jobs.world import World, saved


class Scene:
    """One job that runs, and its stay, which ends with its shares."""

    def __init__(self, path: Path) -> None:
        self.world = World(path / "jobs.db")
        self.desk = PreemptionDesk(stays=self.stays, jobs=lambda: self.world.service)

    def stays(self) -> list[Stay]:
        candidate = Guest(name="mini.candidate", num_bytes=1, priority=1000)
        jobs = [
            Guest(name=f"{JOB_MARK}{run.order.job.id}", num_bytes=1, priority=run.order.job.spec.priority)
            for run in self.world.host.runs
            if run.order.placed.epoch in self.world.placer.held
        ]
        return [Stay(guest=guest, devices=("node-1/gpu-0",), since_s=0.0) for guest in (candidate, *jobs)]

    async def begun(self) -> str:
        job = self.world.submit()
        await self.world.round()
        return job


class TestJobsThatGiveWay:
    def test_are_jobs_and_not_the_candidate_of_a_rollout(self, tmp_path: Path) -> None:
        async def story() -> None:
            scene = Scene(tmp_path)
            job = await scene.begun()
            assert [one.name for one in scene.desk.running()] == [JOB_MARK + job]

        asyncio.run(story())

    def test_hear_it_go_back_to_their_queue_with_the_reason_and_go_on_from_their_checkpoint(
        self, tmp_path: Path
    ) -> None:
        async def story() -> None:
            scene = Scene(tmp_path)
            job = await scene.begun()
            scene.world.run(job).say(saved(40))
            scene.desk.tell({JOB_MARK + job: "Made way for model 'm'."})
            await scene.desk.left([JOB_MARK + job])
            await scene.world.settle()
            waits = scene.world.job(job)
            assert (waits.state, waits.reason, waits.message) == (
                JobState.QUEUED,
                JobReason.PREEMPTED,
                "Made way for model 'm'.",
            )
            await scene.world.round()
            assert scene.world.run(job).order.job.resume_from == "/models/mini/checkpoint-40"

        asyncio.run(story())

    def test_are_waited_for_until_their_shares_are_given_back(self, tmp_path: Path) -> None:
        async def story() -> None:
            scene = Scene(tmp_path)
            job = await scene.begun()
            scene.world.run(job).ends_on_stop = False
            scene.desk.tell({JOB_MARK + job: "Made way."})
            leaving = asyncio.ensure_future(scene.desk.left([JOB_MARK + job]))
            await scene.world.settle()
            assert scene.world.run(job).stopped == 1
            assert not leaving.done()
            scene.world.run(job).end()
            await leaving
            assert scene.world.placer.held == {}

        asyncio.run(story())

    def test_are_told_nothing_when_they_have_ended_meanwhile(self, tmp_path: Path) -> None:
        async def story() -> None:
            scene = Scene(tmp_path)
            job = await scene.begun()
            scene.world.run(job).end()
            await scene.world.settle()
            scene.desk.tell({JOB_MARK + job: "Made way."})
            await scene.desk.left([JOB_MARK + job])
            assert scene.world.state(job) is JobState.SUCCEEDED

        asyncio.run(story())
