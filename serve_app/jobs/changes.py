"""What may happen to a job: each function takes a job and gives it as it is after. Pure.

queued -> scheduled -> running -> succeeded | failed | cancelled, and back to queued after what was not its fault
or may pass. A job that is over never changes again, except that its shares are given back.
"""

from __future__ import annotations

import json
from dataclasses import replace

from serve_app.jobs.job import (
    INTERRUPTIONS,
    MAX_NODE_LOSSES,
    TRIED_AGAIN,
    Ending,
    Job,
    JobReason,
    JobSpec,
    JobState,
    Moment,
    Placed,
    pause_s,
)
from serve_app.jobs.messages import Result, Said, Saved
from serve_app.jobs.queue import HOLD_AFTER_S

_WORKING = (JobState.SCHEDULED, JobState.RUNNING)


def submitted(job_id: str, spec: JobSpec, *, at: Moment) -> Job:
    return Job(
        id=job_id,
        spec=spec,
        state=JobState.QUEUED,
        reason=JobReason.SUBMITTED,
        message="Waits for its turn.",
        submitted=at,
        queued=at,
        holds_after_s=at.now_s + HOLD_AFTER_S,
    )


def waits(job: Job, *, reason: JobReason, message: str) -> Job:
    assert job.state is JobState.QUEUED
    return replace(job, reason=reason, message=message)


def scheduled(job: Job, placed: Placed, *, at: Moment) -> Job:
    """It has its shares, and one attempt more."""
    assert job.state is JobState.QUEUED
    assert job.placed is None, "shares of the attempt before are given back first"
    return replace(
        job,
        state=JobState.SCHEDULED,
        reason=JobReason.PLACED,
        message=f"Starts on {', '.join(placed.devices)}.",
        placed=placed,
        node=placed.node,
        attempt=job.attempt + 1,
        scheduled=at,
        started=None,
    )


def running(job: Job, *, run_traceparent: str | None, at: Moment) -> Job:
    assert job.state is JobState.SCHEDULED
    assert job.placed is not None
    message = f"Runs on {', '.join(job.placed.devices)}, attempt {job.attempt}."
    return replace(
        job,
        state=JobState.RUNNING,
        reason=JobReason.STARTED,
        message=message,
        started=at,
        run_traceparent=run_traceparent,
    )


def heard(job: Job, said: Said) -> Job:
    """What its program told and must not be lost; the same job for anything else."""
    match said:
        case Saved():
            return replace(job, checkpoint=said)
        case Result(value=value):
            return replace(job, result=json.dumps(value))
    return job


def told_to_stop(job: Job, *, reason: JobReason, message: str) -> Job:
    """It is to end soon. A cancellation replaces a preemption, never the other way round."""
    assert reason is JobReason.CANCELLED or reason in INTERRUPTIONS
    if job.stop is JobReason.CANCELLED:
        return job
    return replace(job, stop=reason, stop_message=message)


def cancelled(job: Job, *, message: str, at: Moment) -> Job:
    """At once, because no program of it runs."""
    assert job.state is JobState.QUEUED
    return _over(job, JobState.CANCELLED, Ending(reason=JobReason.CANCELLED, message=message), at=at)


def ended(job: Job, ending: Ending, *, at: Moment) -> Job:
    """After its program ended, however it did. If it was told to stop, that is why.

    A program that ends well on SIGTERM has saved what it had; it has not done what it was for.
    """
    assert job.state in _WORKING
    if job.stop is not None:
        ending = replace(ending, reason=job.stop, message=job.stop_message)
    match ending.reason:
        case JobReason.DONE:
            return _over(job, JobState.SUCCEEDED, ending, at=at)
        case JobReason.CANCELLED:
            return _over(job, JobState.CANCELLED, ending, at=at)
    if ending.reason in INTERRUPTIONS:
        return _interrupted(job, ending, at=at)
    failed = replace(job, num_failures=job.num_failures + 1)
    if ending.reason in TRIED_AGAIN and failed.num_failures < job.spec.limits.num_failures:
        pause = pause_s(failed.num_failures)
        again = f"Attempt {job.attempt} failed and is tried again after {pause:.0f} s. {ending.message}"
        return _queued_again(failed, replace(ending, message=again), at=at, not_before_s=at.now_s + pause)
    return _over(failed, JobState.FAILED, ending, at=at)


def given_back(job: Job) -> Job:
    """Its shares are nobody's now."""
    return replace(job, placed=None)


def not_held_by_jobs(job: Job, *, now_s: float) -> Job:
    """It found no room though no job ran: it lets others go first until it has waited as long again."""
    return replace(job, holds_after_s=now_s + HOLD_AFTER_S)


def _interrupted(job: Job, ending: Ending, *, at: Moment) -> Job:
    job = replace(
        job,
        num_preemptions=job.num_preemptions + (ending.reason is JobReason.PREEMPTED),
        num_node_losses=job.num_node_losses + (ending.reason is JobReason.NODE_LOST),
    )
    if job.num_node_losses >= MAX_NODE_LOSSES:
        message = f"Its node was lost {MAX_NODE_LOSSES} times while it ran. {ending.message}"
        return _over(job, JobState.FAILED, replace(ending, message=message), at=at)
    return _queued_again(job, ending, at=at, not_before_s=0.0)


def _queued_again(job: Job, ending: Ending, *, at: Moment, not_before_s: float) -> Job:
    """It keeps its place: what it waited and worked counts as waiting, see `queue`."""
    return replace(
        job,
        state=JobState.QUEUED,
        reason=ending.reason,
        message=ending.message,
        exit_status=ending.exit_status,
        queued=at,
        started=None,
        stop=None,
        stop_message="",
        not_before_s=not_before_s,
        holds_after_s=at.now_s + HOLD_AFTER_S,
    )


def _over(job: Job, state: JobState, ending: Ending, *, at: Moment) -> Job:
    return replace(
        job, state=state, reason=ending.reason, message=ending.message, exit_status=ending.exit_status, ended=at
    )
