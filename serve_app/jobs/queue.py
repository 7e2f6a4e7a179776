"""Which waiting job is tried next. Pure: it knows neither devices nor what room there is, only who was blocked.

Order. Every job has a rank: when it was submitted, put earlier by `AGE_S` for each point of priority. So a job is
overtaken only by those submitted less than `AGE_S` x (their priority - its own) later, at most one hour for a job of
priority 0 and others of 1000. Nothing starves, however many higher ones keep coming. A job that goes back to the
queue keeps its rank.

A large job that is blocked does not stop the smaller ones behind it. Once it has waited `HOLD_AFTER_S` it holds them:
only those may still go first that are sure to end (by their own limit) before all jobs that run now have ended at the
latest. So from then on nothing delays it beyond that. If it is blocked though no job runs, it is not jobs that hold
its room; then it holds nobody for as long again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from serve_app.jobs.job import MAX_PRIORITY, Job, JobState

LONGEST_LEAD_S: Final = 3600.0
AGE_S: Final = LONGEST_LEAD_S / MAX_PRIORITY
"""A point of priority weighs as much as having come so much earlier."""
HOLD_AFTER_S: Final = 600.0


def rank_s(job: Job) -> float:
    """The smaller goes first."""
    return job.submitted.now_s - AGE_S * job.spec.priority


def in_order(jobs: Iterable[Job]) -> tuple[Job, ...]:
    return tuple(sorted(jobs, key=lambda job: (rank_s(job), job.id)))


def ready(jobs: Iterable[Job], *, now_s: float) -> tuple[Job, ...]:
    """Those that may be tried now, in order: their pause is over, and their old shares are given back."""
    return in_order(
        job for job in jobs if job.state is JobState.QUEUED and job.placed is None and job.not_before_s <= now_s
    )


def holder(blocked: Sequence[Job], running: Sequence[Job], *, now_s: float) -> Job | None:
    """The first blocked job that holds those behind it, if any. `blocked` are those of this round, in order."""
    if not running:
        return None
    return next((job for job in blocked if now_s >= job.holds_after_s), None)


def would_delay(job: Job, held_by: Job, running: Sequence[Job], *, now_s: float) -> bool:
    """Whether `job` could still run when all that run now have surely ended."""
    if rank_s(job) <= rank_s(held_by):
        return False
    return now_s + job.spec.limits.run_s > max(surely_over_s(other, now_s=now_s) for other in running)


def surely_over_s(job: Job, *, now_s: float) -> float:
    """When a job that has shares ends at the latest; one that only has to give them back, at once."""
    if job.state not in (JobState.SCHEDULED, JobState.RUNNING):
        return now_s
    began_s = now_s if job.started is None else job.started.now_s
    return began_s + job.spec.limits.run_s


def as_blocked(job: Job, blocked: Iterable[Job]) -> Job | None:
    """One of its kind that asked for no more, with no lower priority, and found no room: then neither will this.

    Saves asking the solver for each of a thousand equal jobs.
    """
    spec = job.spec
    return next(
        (
            other
            for other in blocked
            if other.spec.kind is spec.kind
            and other.spec.num_bytes <= spec.num_bytes
            and other.spec.num_devices <= spec.num_devices
            and other.spec.priority >= spec.priority
        ),
        None,
    )
