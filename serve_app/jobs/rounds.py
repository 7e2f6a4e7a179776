"""Goes through the queue, again and again: has the placer asked in the order and with the holds of `queue`."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Final

from serve_app.errors import HeadroomError
from serve_app.jobs import changes, queue
from serve_app.jobs.attempts import Attempts
from serve_app.jobs.book import JobBook, log
from serve_app.jobs.job import Job, JobReason, JobState, Placed
from serve_app.jobs.ports import Blocked, Placer
from tracing import names
from tracing.job_metrics import JobMetrics
from tracing.job_spans import JobSpans, OpenSpan

ROUND_S: Final = 30.0
"""A round is made at least as often while jobs wait, whatever nobody told."""


class Rounds:
    """`woken` begins a round at once. Owns the spans of jobs that wait."""

    def __init__(
        self, *, book: JobBook, placer: Placer, attempts: Attempts, spans: JobSpans, metrics: JobMetrics | None
    ) -> None:
        self._book = book
        self._placer = placer
        self._attempts = attempts
        self._spans = spans
        self._metrics = metrics
        self._waiting: dict[str, OpenSpan] = {}
        self.woken = asyncio.Event()

    async def for_ever(self) -> None:
        while True:
            self.woken.clear()
            try:
                await self.once()
            except sqlite3.Error as error:  # the next round tries again
                log.error("the ledger of jobs cannot be written", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), self._next_s())

    async def once(self) -> None:
        """One try for each job that may go. Raises: sqlite3.Error; what was written stands."""
        blocked: list[Job] = []
        for job in queue.ready(self._book.open, now_s=self._book.now().now_s):
            if await self._finds_no_room(job, blocked):
                blocked.append(job)

    def left(self, job_id: str) -> None:
        """A job that waits no more though it was not placed."""
        span = self._waiting.pop(job_id, None)
        if span is not None:
            span.tell({names.DECISION: "cancelled"})
            span.end()

    async def _finds_no_room(self, job: Job, blocked: list[Job]) -> bool:
        """False too where it was not asked for, because it waits behind another."""
        now_s = self._book.now().now_s
        working = self._book.with_shares
        held_by = queue.holder(blocked, working, now_s=now_s)
        if held_by is not None and queue.would_delay(job, held_by, working, now_s=now_s):
            message = (
                f"Waits behind {held_by.id}, which has waited long for more room and would wait longer for this one."
            )
            self._waits(job.id, JobReason.BEHIND, message)
            return False
        if (like := queue.as_blocked(job, blocked)) is not None:
            self._waits(job.id, JobReason.NO_ROOM, f"Asks for no less than {like.id}, which found no room.")
            return True
        answer = await self._asked(job)
        if isinstance(answer, Placed):
            await self._placed(job.id, answer)
            return False
        if not self._book.with_shares and now_s >= job.holds_after_s:
            self._let_others_go(job.id, now_s)
        self._waits(job.id, JobReason.NO_ROOM, answer.message)
        return True

    async def _asked(self, job: Job) -> Placed | Blocked:
        with self._span(job).current():
            try:
                return await self._placer.place(job)
            except HeadroomError as error:
                return Blocked(message=str(error))

    async def _placed(self, job_id: str, placed: Placed) -> None:
        """Not kept if the job went meanwhile, or if it cannot be written down. Raises: sqlite3.Error."""
        job = self._still_waiting(job_id)
        if job is None:
            await self._placer.free(placed)
            return
        try:
            job = self._book.put(changes.scheduled(job, placed, at=self._book.now()))
        except sqlite3.Error:
            await self._placer.free(placed)
            raise
        assert job.wait_s is not None
        if self._metrics is not None:
            self._metrics.scheduled(job.spec.kind.value, wait_s=job.wait_s)
        span = self._waiting.pop(job_id)
        span.tell({names.DECISION: "placed", names.JOB_WAIT_S: job.wait_s, names.JOB_DEVICES: placed.devices})
        span.end()
        self._attempts.begin(job, span.traceparent)

    def _waits(self, job_id: str, reason: JobReason, message: str) -> None:
        job = self._still_waiting(job_id)
        if job is not None and (job.reason, job.message) != (reason, message):
            job = self._book.put(changes.waits(job, reason=reason, message=message))
            self._span(job).tell({names.REASON: message})

    def _let_others_go(self, job_id: str, now_s: float) -> None:
        job = self._still_waiting(job_id)
        if job is not None:
            self._book.put(changes.not_held_by_jobs(job, now_s=now_s))

    def _still_waiting(self, job_id: str) -> Job | None:
        job = self._book.job(job_id)
        return job if job is not None and job.state is JobState.QUEUED else None

    def _span(self, job: Job) -> OpenSpan:
        """Begun when the job was queued, however late it is tried first."""
        if job.id not in self._waiting:
            self._waiting[job.id] = self._spans.schedule(
                job_id=job.id,
                attempt=job.attempt + 1,
                submit=job.submit_traceparent,
                run_before=job.run_traceparent,
                at_s=job.queued.unix_s,
            )
        return self._waiting[job.id]

    def _next_s(self) -> float:
        """Until a job's pause is over, at most `ROUND_S`."""
        now_s = self._book.now().now_s
        pauses = (job.not_before_s - now_s for job in self._book.open if job.state is JobState.QUEUED)
        return min((ROUND_S, *(pause_s for pause_s in pauses if pause_s > 0)))
