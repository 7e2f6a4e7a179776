"""All jobs that are not settled, in memory and in the ledger alike; the only way to change one.

A change is on the disk before it counts here, so whoever reads the book reads what a restart would find.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from serve_app.jobs.job import Job, Moment
from serve_app.jobs.ledger import JobLedger
from serve_app.jobs.messages import Saved
from serve_app.logs import logger

WRITE_AGAIN_S: Final = 1.0
log = logger("jobs")


class JobObserver(Protocol):
    """Who wants to hear of jobs, after it was written down. Must not block."""

    def saved(self, job: Job, saved: Saved) -> None:
        """A whole checkpoint is in its place. Its path is what the program said: verify it before use."""
        ...

    def over(self, job: Job) -> None: ...


class JobBook:
    def __init__(
        self,
        ledger: JobLedger,
        *,
        now: Callable[[], Moment],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is called after every change; it must not block."""
        self.ledger = ledger
        self.now = now
        self.pause = pause
        self._changed = changed
        self._open = {job.id: job for job in ledger.unsettled()}

    @property
    def open(self) -> Sequence[Job]:
        """Jobs that are not over, or still have shares."""
        return tuple(self._open.values())

    @property
    def with_shares(self) -> Sequence[Job]:
        return tuple(job for job in self._open.values() if job.placed is not None)

    def job(self, job_id: str) -> Job | None:
        return self._open.get(job_id) or self.ledger.job(job_id)

    def put(self, job: Job) -> Job:
        """Raises: sqlite3.Error; then nothing was changed."""
        self.ledger.put(job)
        if job.is_over and job.placed is None:
            self._open.pop(job.id, None)
        else:
            self._open[job.id] = job
        self._changed()
        return job

    async def change(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        """What has happened already and must be written down, however long the disk refuses it.

        `change` is given the job as it stands at each attempt, because others may change it meanwhile.
        """
        while True:
            try:
                return self.put(change(self._open[job_id]))
            except sqlite3.Error as error:
                log.error("the ledger of jobs cannot be written", job=job_id, error=str(error))
                await self.pause(WRITE_AGAIN_S)
