"""Turns open goals into jobs until each is met or hopeless: the loop around `decide`.

Jobs, comparison and the clock come in. A crash between submitting and writing is covered by the job's key: the same key
submitted twice is one job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, assert_never

from serve_app.compare.service import ComparisonService
from serve_app.goals.decide import best_score, decide
from serve_app.goals.goal import (
    Compared,
    Goal,
    GoalEntry,
    GoalJob,
    GoalState,
    Hopeless,
    JobState,
    JobWanted,
    Met,
    Submit,
    Wait,
)
from serve_app.goals.store import GoalStore
from serve_app.logs import logger
from serve_app.turns import Bell

EVERY_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """`reward` is the reward average that a reinforcement job reported last."""

    state: JobState
    reward: float | None = None


class Jobs(Protocol):
    async def submit(self, job: JobWanted, *, priority: int, key: str) -> str:
        """The job's id. The same `key` again is the same job. Raises: anything, when it cannot be submitted now."""

    async def report(self, job_id: str) -> JobReport: ...

    async def cancel(self, job_id: str) -> None: ...


class Comparisons(Protocol):
    async def compared(self, model: str) -> Compared: ...


@dataclass(frozen=True, slots=True)
class FromComparisons:
    """What goals need to know, from the service that compares."""

    service: ComparisonService

    async def compared(self, model: str) -> Compared:
        """Looks for what is pending first: a checkpoint that is scored meanwhile is then only waited for once more."""
        pending = await self.service.pending(model)
        scores = tuple(line.score for line in self.service.board(model).lines if line.rank and line.score)
        return Compared(scores=scores, pending=pending)


class GoalService:
    """Use from one event loop. `clock` in seconds since 1970."""

    def __init__(self, *, store: GoalStore, jobs: Jobs, comparisons: Comparisons, clock: Callable[[], float]) -> None:
        self.store = store
        self._jobs = jobs
        self._comparisons = comparisons
        self._clock = clock
        self._bell = Bell()

    def noticed(self) -> None:
        """A job ended, a checkpoint was scored, or a goal was added."""
        self._bell.ring()

    async def run(self) -> None:
        """For ever: now, at every notice, and at the latest after 15 s."""
        await self._bell.turns(self.turn, every_s=EVERY_S, what="looking after goals")

    async def turn(self) -> None:
        """One decision for each open goal; what fails with one does not hold up the others."""
        for entry in self.store.open_goals():
            try:
                await self._step(entry)
            except Exception as error:  # noqa: BLE001 - theirs, of any kind; the next turn tries again
                _log.error("a goal could not be looked after", goal=entry.goal.id, error=repr(error))
                self.store.settle(entry.goal.id, GoalState.OPEN, f"Trying again: {error!s}"[:500])

    async def cancel(self, entry: GoalEntry) -> None:
        """Ends the goal first, so that no turn submits another job; then its jobs that are under way."""
        self.store.settle(entry.goal.id, GoalState.CANCELLED, "Cancelled.")
        for job in entry.jobs:
            if job.state is JobState.ACTIVE:
                await self._jobs.cancel(job.job_id)

    async def _step(self, entry: GoalEntry) -> None:
        goal = entry.goal
        jobs = [await self._reported(goal, number, job) for number, job in enumerate(entry.jobs)]
        compared = await self._comparisons.compared(goal.model)
        match decide(goal, jobs, compared, now_s=self._clock()):
            case Submit(job):
                best = best_score(goal.metric, compared.scores)
                await self._submit(goal, len(jobs), job, before=best.weights_version if best else None)
            case Wait(why):
                self.store.settle(goal.id, GoalState.OPEN, why)
            case Met(why):
                await self._end(goal, jobs, GoalState.MET, why)
            case Hopeless(why):
                await self._end(goal, jobs, GoalState.HOPELESS, why)
            case other:
                assert_never(other)

    async def _reported(self, goal: Goal, number: int, job: GoalJob) -> GoalJob:
        if job.state is not JobState.ACTIVE:
            return job
        told = await self._jobs.report(job.job_id)
        ended_at_s = None if told.state is JobState.ACTIVE else self._clock()
        found = replace(job, state=told.state, reward=told.reward, ended_at_s=ended_at_s)
        if found != job:
            self.store.save_job(goal.id, number, found)
        return found

    async def _submit(self, goal: Goal, number: int, wanted: JobWanted, *, before: str | None) -> None:
        job_id = await self._jobs.submit(wanted, priority=goal.priority, key=f"{goal.id}/{number}")
        job = GoalJob(
            job_id=job_id,
            strategy=wanted.strategy,
            state=JobState.ACTIVE,
            before=before,
            submitted_at_s=self._clock(),
        )
        self.store.save_job(goal.id, number, job)
        entry = self.store.entry(goal.id)
        if entry is None or entry.state is not GoalState.OPEN:  # cancelled while it was being submitted
            await self._jobs.cancel(job_id)
            return
        self.store.settle(goal.id, GoalState.OPEN, f"Job {job_id} was submitted: {wanted.strategy}.")
        _log.info("goal became a job", goal=goal.id, job=job_id, strategy=wanted.strategy.value)

    async def _end(self, goal: Goal, jobs: list[GoalJob], state: GoalState, why: str) -> None:
        self.store.settle(goal.id, state, why)
        _log.info("goal ended", goal=goal.id, state=state.value, why=why)
        for job in jobs:
            if job.state is JobState.ACTIVE:
                await self._jobs.cancel(job.job_id)


_log = logger("headroom.goals")
