"""What happens to jobs, with a placer and a host that the test moves by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.jobs.job import MAX_NODE_LOSSES, Ending, Job, JobReason, JobState
from serve_app.jobs.ledger import JobLedger
from serve_app.jobs.messages import Result
from serve_app.jobs.queue import HOLD_AFTER_S
from serve_app.jobs.service import JobRefusal, JobRefusalReason
from tests.serve_app.jobs.world import DEVICE, EXITED, World, progress, saved, script


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "state.sqlite")
    yield made
    await made.service.close()


class TestARun:
    async def test_goes_from_the_queue_to_its_end_and_gives_its_shares_back(self, world: World) -> None:
        job_id = world.submit()
        assert world.state(job_id) is JobState.QUEUED
        await world.round()
        assert world.state(job_id) is JobState.RUNNING
        assert world.placer.held
        world.run(job_id).end()
        await world.settle()
        job = world.job(job_id)
        assert (job.state, job.reason, job.placed, job.attempt) == (JobState.SUCCEEDED, JobReason.DONE, None, 1)
        assert world.placer.held == {}
        assert world.heard.ended == [job_id]

    async def test_tells_how_far_it_is_without_writing_each_step(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        before = world.db.total_changes
        world.run(job_id).say(progress(3, loss=2.5), progress(4, loss=2.0))
        await world.settle()
        view = world.service.show(job_id)
        assert not isinstance(view, JobRefusal)
        assert view.live is not None
        assert (view.live.step, view.live.num_steps, view.live.metrics) == (4, 100, {"loss": 2.0})
        assert world.db.total_changes == before

    async def test_keeps_its_result_and_tells_of_checkpoints_once_they_are_written_down(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        world.run(job_id).say(saved(10), Result(value={"accuracy": 0.5}))
        await world.settle()
        assert world.heard.checkpoints == [saved(10).path]
        assert world.job(job_id).resume_from == saved(10).path
        assert world.job(job_id).result == '{"accuracy": 0.5}'


class TestFailures:
    async def test_of_a_program_are_tried_again_after_a_pause_from_the_last_checkpoint(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        world.run(job_id).say(saved(10))
        world.run(job_id).end(EXITED)
        await world.settle()
        assert world.state(job_id) is JobState.QUEUED
        await world.round()
        assert world.state(job_id) is JobState.QUEUED
        world.pass_s(5)
        await world.round()
        assert world.state(job_id) is JobState.RUNNING
        assert world.run(job_id).order.job.resume_from == saved(10).path

    async def test_end_the_job_after_as_many_as_it_may_have(self, world: World) -> None:
        job_id = world.submit(script(num_failures=2))
        for _ in range(2):
            world.pass_s(300)
            await world.round()
            world.run(job_id).end(EXITED)
            await world.settle()
        job = world.job(job_id)
        assert (job.state, job.message, job.exit_status) == (JobState.FAILED, EXITED.message, 1)

    @pytest.mark.parametrize("reason", [JobReason.SAID_SO, JobReason.NOT_STARTED, JobReason.TOO_LONG])
    async def test_that_cannot_pass_are_not_tried_again(self, world: World, reason: JobReason) -> None:
        job_id = world.submit()
        await world.round()
        world.run(job_id).end(Ending(reason=reason, message="No."))
        await world.settle()
        assert world.state(job_id) is JobState.FAILED

    async def test_of_the_node_do_not_count_as_the_job_s_own(self, world: World) -> None:
        job_id = world.submit(script(num_failures=1))
        await world.round()
        world.run(job_id).lose()
        await world.settle()
        job = world.job(job_id)
        assert (job.state, job.reason, job.num_failures) == (JobState.QUEUED, JobReason.NODE_LOST, 0)

    async def test_of_node_after_node_end_it_all_the_same(self, world: World) -> None:
        job_id = world.submit()
        for _ in range(MAX_NODE_LOSSES):
            await world.round()
            world.run(job_id).lose()
            await world.settle()
        assert world.state(job_id) is JobState.FAILED

    async def test_to_reach_the_machine_put_it_back(self, world: World) -> None:
        world.host.unreachable = "Node 'node-1' does not answer."
        job_id = world.submit()
        await world.round()
        job = world.job(job_id)
        assert (job.state, job.message) == (JobState.QUEUED, "Node 'node-1' does not answer.")
        assert world.placer.held == {}

    async def test_of_a_hung_node_are_told_by_the_controller(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        assert world.service.node_lost("node-1", message="No answer for 15 s.") == (job_id,)
        await world.settle()
        assert world.job(job_id).reason is JobReason.NODE_LOST
        assert world.placer.held == {}


class TestCancelling:
    async def test_a_waiting_job_ends_it_at_once(self, world: World) -> None:
        job_id = world.submit()
        world.service.cancel(job_id)
        await world.round()
        assert world.state(job_id) is JobState.CANCELLED
        assert world.host.runs == []
        assert world.heard.ended == [job_id]

    async def test_a_running_one_stops_its_program_whatever_that_says_at_its_end(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        world.service.cancel(job_id)
        await world.settle()
        assert world.run(job_id).stopped == 1
        assert world.state(job_id) is JobState.CANCELLED

    async def test_while_it_is_being_placed_gives_the_shares_back(self, world: World) -> None:
        job_id = world.submit()
        world.placer.during = lambda job: world.service.cancel(job.id)
        await world.round()
        assert world.state(job_id) is JobState.CANCELLED
        assert world.placer.held == {}

    async def test_while_its_program_starts_ends_it_then(self, world: World) -> None:
        job_id = world.submit()
        await world.service.round()
        assert world.state(job_id) is JobState.SCHEDULED
        world.service.cancel(job_id)
        await world.settle()
        assert world.state(job_id) is JobState.CANCELLED
        assert world.placer.held == {}

    async def test_what_is_over_or_unknown_is_refused(self, world: World) -> None:
        job_id = world.submit()
        world.service.cancel(job_id)
        for asked, reason in ((job_id, JobRefusalReason.ALREADY_OVER), ("job-99", JobRefusalReason.UNKNOWN_JOB)):
            refused = world.service.cancel(asked)
            assert isinstance(refused, JobRefusal)
            assert refused.reason is reason


class TestPreemption:
    async def test_puts_a_job_back_that_goes_on_from_its_last_checkpoint(self, world: World) -> None:
        job_id = world.submit(script(num_failures=1))
        await world.round()
        world.run(job_id).say(saved(20))
        await world.settle()
        assert world.service.preempt_device(DEVICE, message="The device is too hot.") == (job_id,)
        await world.settle()
        job = world.job(job_id)
        assert (job.state, job.reason, job.message) == (
            JobState.QUEUED,
            JobReason.PREEMPTED,
            "The device is too hot.",
        )
        assert (job.num_preemptions, job.num_failures) == (1, 0)
        await world.round()
        assert world.run(job_id).order.job.resume_from == saved(20).path
        assert world.job(job_id).attempt == 2

    async def test_finds_what_runs_on_a_device_and_nothing_else(self, world: World) -> None:
        job_id = world.submit()
        assert world.service.running_on(DEVICE) == ()
        await world.round()
        assert [job.id for job in world.service.running_on(DEVICE)] == [job_id]
        assert world.service.preempt_device("node-2/gpu-0", message="-") == ()

    async def test_does_not_undo_a_cancellation(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        world.run(job_id).ends_on_stop = False
        world.service.cancel(job_id)
        world.service.preempt(job_id, message="hot")
        world.run(job_id).end()
        await world.settle()
        assert world.state(job_id) is JobState.CANCELLED

    async def test_of_a_job_that_waits_is_none(self, world: World) -> None:
        assert not world.service.preempt(world.submit(), message="hot")


class TestRestart:
    async def test_goes_on_with_everything(self, world: World) -> None:
        running, waiting = world.submit(), world.submit(script(gib=10))
        await world.round()
        world.run(running).say(saved(5))
        await world.settle()
        await world.service.close()
        world.restart()
        await world.service.recover()
        await world.settle()
        assert world.host.cleared == [running]
        job = world.job(running)
        assert (job.state, job.reason) == (JobState.QUEUED, JobReason.CONTROLLER_RESTARTED)
        await world.round()
        assert world.run(running).order.job.resume_from == saved(5).path
        assert world.state(waiting) is JobState.QUEUED

    async def test_keeps_the_word_of_a_cancellation(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        world.run(job_id).ends_on_stop = False
        world.service.cancel(job_id)
        await world.service.close()
        world.restart()
        await world.service.recover()
        await world.settle()
        assert world.state(job_id) is JobState.CANCELLED

    async def test_of_the_machine_does_not_make_jobs_older_or_younger(self, world: World) -> None:
        first = world.submit()
        await world.service.close()
        world.clock.at_s, world.clock.boot = 7.0, "second"
        world.restart()
        second = world.submit()
        world.pass_s(10)
        third = world.submit()
        times = [world.job(job_id).submitted.now_s for job_id in (first, second, third)]
        assert times == [1000.0, 1000.0, 1010.0]

    async def test_is_not_needed_for_a_wall_clock_that_jumps(self, world: World) -> None:
        first = world.submit()
        world.clock.wall_s -= 3600
        second = world.submit()
        await world.round()
        assert world.placer.asked == [first, second]


class TestRoom:
    async def test_that_is_missing_is_told_in_the_placer_s_words(self, world: World) -> None:
        job_id = world.submit(script(gib=11))
        await world.round()
        job = world.job(job_id)
        assert (job.state, job.reason, job.message) == (JobState.QUEUED, JobReason.NO_ROOM, "No room for 11 GiB.")

    async def test_that_a_large_job_lacks_is_used_by_smaller_ones_at_first(self, world: World) -> None:
        running, large, small = world.submit(script(gib=5)), world.submit(script(gib=8)), world.submit(script(gib=2))
        await world.round()
        assert [world.state(one) for one in (running, large, small)] == [
            JobState.RUNNING,
            JobState.QUEUED,
            JobState.RUNNING,
        ]

    async def test_is_kept_for_a_large_job_that_waited_long_unless_the_other_surely_ends_in_time(
        self, world: World
    ) -> None:
        running = world.submit(script(gib=5, run_s=2 * HOLD_AFTER_S))
        large = world.submit(script(gib=8))
        await world.round()
        world.pass_s(HOLD_AFTER_S)
        long, short = world.submit(script(gib=2, run_s=HOLD_AFTER_S + 1)), world.submit(script(gib=2, run_s=60))
        await world.round()
        assert (world.job(long).state, world.job(long).reason) == (JobState.QUEUED, JobReason.BEHIND)
        assert world.state(short) is JobState.RUNNING
        for one in (running, short):
            world.run(one).end()
        await world.settle()
        await world.round()
        assert (world.state(large), world.state(long)) == (JobState.RUNNING, JobState.RUNNING)

    async def test_that_no_job_takes_is_not_kept(self, world: World) -> None:
        world.submit(script(gib=11))
        world.pass_s(HOLD_AFTER_S)
        await world.round()
        first, second = world.submit(), world.submit()
        await world.round()
        assert (world.state(first), world.state(second)) == (JobState.RUNNING, JobState.RUNNING)

    async def test_is_not_asked_for_again_by_equal_jobs(self, world: World) -> None:
        for _ in range(5):
            world.submit(script(gib=11))
        await world.round()
        assert world.placer.asked == ["job-1"]


class FailingLedger(JobLedger):
    """Refuses the next `num_refused` writes as a full disk does."""

    num_refused = 0

    def put(self, job: Job) -> None:
        if self.num_refused > 0:
            self.num_refused -= 1
            raise sqlite3.OperationalError("database or disk is full")
        super().put(job)


class TestAFullDisk:
    @pytest.fixture
    def ledger(self, world: World) -> FailingLedger:
        world.wrap = lambda ledger: FailingLedger(sqlite3.connect(world.path, isolation_level=None))
        world.restart()
        assert isinstance(world.ledger, FailingLedger)
        return world.ledger

    async def test_refuses_a_submission_and_changes_nothing(self, world: World, ledger: FailingLedger) -> None:
        ledger.num_refused = 1
        refused = world.service.submit(script())
        assert isinstance(refused, JobRefusal)
        assert refused.reason is JobRefusalReason.LEDGER_UNAVAILABLE
        assert world.service.page() == ((), None)

    async def test_does_not_keep_shares_that_could_not_be_written_down(
        self, world: World, ledger: FailingLedger
    ) -> None:
        job_id = world.submit()
        ledger.num_refused = 1
        with pytest.raises(sqlite3.OperationalError):
            await world.round()
        assert world.placer.held == {}
        await world.round()
        assert world.state(job_id) is JobState.RUNNING

    async def test_does_not_lose_how_a_job_ended(self, world: World, ledger: FailingLedger) -> None:
        job_id = world.submit()
        await world.round()
        ledger.num_refused = 3
        world.run(job_id).end()
        await world.settle()
        assert world.state(job_id) is JobState.SUCCEEDED


class TestTheLoop:
    async def test_places_what_is_submitted_and_what_found_room(self, world: World) -> None:
        await world.service.start()
        first, second = world.submit(script(gib=10)), world.submit(script(gib=10))
        await world.settle()
        assert (world.state(first), world.state(second)) == (JobState.RUNNING, JobState.QUEUED)
        world.run(first).end()
        await world.settle()
        await world.settle()
        assert world.state(second) is JobState.RUNNING


class TestLogs:
    async def test_come_from_the_node_it_ran_on_also_after_its_end(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        world.run(job_id).end()
        await world.settle()
        part = await world.service.read_log(job_id, offset=0, max_bytes=100)
        assert not isinstance(part, JobRefusal)
        assert part.text == f"{job_id} on node-1"

    async def test_of_a_node_that_is_gone_are_refused_with_its_name(self, world: World) -> None:
        job_id = world.submit()
        await world.round()
        world.host.unreachable = "It does not answer."
        refused = await world.service.read_log(job_id, offset=0, max_bytes=100)
        assert isinstance(refused, JobRefusal)
        assert "'node-1'" in refused.message
