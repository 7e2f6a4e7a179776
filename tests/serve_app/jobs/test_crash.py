"""The controller dies at any write of any story; whatever was promised is kept by the next one."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serve_app.jobs.job import Job, JobState
from serve_app.jobs.ledger import JobLedger
from serve_app.jobs.service import JobRefusal
from tests.serve_app.jobs.world import EXITED, World, saved, script


class Died(BaseException):
    """The process is gone: nothing after this happens."""


class MortalLedger(JobLedger):
    """Dies at its `num_left`-th write, before or after the disk has it, and never writes again."""

    def __init__(self, path: Path, *, num_left: int, is_written: bool) -> None:
        super().__init__(sqlite3.connect(path, isolation_level=None))
        self._num_left = num_left
        self._is_written = is_written
        self.is_dead = False

    def put(self, job: Job) -> None:
        if self.is_dead:
            raise Died
        self._num_left -= 1
        if self._num_left <= 0:
            self.is_dead = True
            if self._is_written:
                super().put(job)
            raise Died
        super().put(job)


async def story(world: World, told: list[str]) -> None:
    """Two jobs: one that saves, fails, is preempted and ends; one that is cancelled while it runs."""
    try:
        first = world.service.submit(script())
        assert not isinstance(first, JobRefusal)
        told.append(first.id)
        second = world.service.submit(script())
        assert not isinstance(second, JobRefusal)
        told.append(second.id)
        await world.round()
        world.run(first.id).say(saved(10))
        world.run(first.id).end(EXITED)
        world.service.cancel(second.id)
        await world.settle()
        world.pass_s(300)
        await world.round()
        world.service.preempt(first.id, message="hot")
        await world.settle()
        await world.round()
        world.run(first.id).end()
        await world.settle()
    except (Died, StopIteration):  # StopIteration: the run that the story wants was never started
        pass


async def to_the_end(world: World) -> None:
    """Every run ends well from here on."""
    await world.service.recover()
    for _ in range(6):
        world.pass_s(300)
        await world.round()
        for run in world.host.runs:
            run.end()
        await world.settle()


class TestACrashAtAnyWrite:
    @given(num_left=st.integers(1, 20), is_written=st.booleans())
    async def test_loses_no_job_no_checkpoint_and_no_share(self, num_left: int, is_written: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path, told = Path(folder) / "state.sqlite", list[str]()
            world = World(path)
            world.wrap = lambda _: MortalLedger(path, num_left=num_left, is_written=is_written)
            world.restart()
            await story(world, told)
            before = {job.id: job for job in JobLedger(sqlite3.connect(path, isolation_level=None)).page()[0]}
            heard = world.heard
            await world.service.close()
            world.wrap = lambda ledger: ledger
            world.restart()
            await to_the_end(world)
            assert set(told) <= before.keys()
            assert {saved(10).path for _ in heard.checkpoints} <= {job.resume_from for job in before.values()}
            assert all(before[job_id].is_over for job_id in heard.ended)
            for job_id, then in before.items():
                job = world.job(job_id)
                assert job.is_over
                assert job.placed is None
                assert job.attempt >= then.attempt
                assert then.checkpoint in (None, job.checkpoint)
                if then.is_over:
                    assert job.state is then.state
                elif then.stop is not None and then.stop.value == "cancelled":
                    assert job.state is JobState.CANCELLED
            assert world.placer.held == {}
            await world.service.close()


class TestHistory:
    async def test_is_bounded_and_never_drops_what_is_not_over(self, tmp_path: Path) -> None:
        world = World(tmp_path / "state.sqlite")
        world.wrap = lambda _: JobLedger(sqlite3.connect(world.path, isolation_level=None), max_over=3)
        world.restart()
        kept = world.submit()
        for _ in range(6):
            world.service.cancel(world.submit())
        jobs, _ = world.ledger.page()
        assert [job.id for job in jobs] == ["job-7", "job-6", "job-5", kept]
        await world.service.close()
