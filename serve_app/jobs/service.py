"""The one object that REST, gRPC and the controller call about jobs: takes them, has them placed, run and ended.

Runs in one event loop. Must not know of Ray, processes, HTTP or gRPC: all that is behind `ports`.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from serve_app.errors import HeadroomError
from serve_app.jobs import changes
from serve_app.jobs.attempts import Attempts
from serve_app.jobs.book import JobBook, JobObserver
from serve_app.jobs.job import Ending, Job, JobKind, JobReason, JobSpec, JobState
from serve_app.jobs.ports import Host, Live, LogPart, Placer
from serve_app.jobs.rounds import Rounds
from serve_app.jobs.tasks import Tasks
from serve_app.logs import logger
from tracing import names
from tracing.job_metrics import JobMetrics, TrainingSample
from tracing.job_spans import JobSpans
from tracing.names import JobEvent

MAX_UNSETTLED: Final = 1000
log = logger("jobs")


class JobRefusalReason(StrEnum):
    UNKNOWN_JOB = "unknown_job"
    ALREADY_OVER = "already_over"
    QUEUE_FULL = "queue_full"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    LOG_UNAVAILABLE = "log_unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRefusal:
    """`message` says what happened and what to do."""

    reason: JobRefusalReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job, and what it told last if it runs now."""

    job: Job
    live: Live | None = None


def _new_id() -> str:
    return f"job-{secrets.token_hex(6)}"


class JobService:
    """To be plugged in: `book` over the controller's store, with a `JobClock`; `placer` and `host`, see `ports`.

    `observers` hear of checkpoints and of ends (comparison, goals); `metrics` and `spans` tell outside.
    Call `start` once; then `woken` whenever room may have come (a new plan, a node, a lease given back), `node_lost`
    when a node does not answer any more, `preempt_device` and `device_fault` from the watch, and `record` before
    metrics are drained. `close` ends nothing that runs: what the next `start` finds running goes back to the queue.
    """

    def __init__(
        self,
        *,
        book: JobBook,
        placer: Placer,
        host: Host,
        spans: JobSpans | None = None,
        metrics: JobMetrics | None = None,
        observers: Sequence[JobObserver] = (),
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self._book = book
        self._host = host
        self._spans = spans or JobSpans()
        self._metrics = metrics
        self._new_id = new_id
        self._tasks = Tasks()
        self._attempts = Attempts(
            book=book,
            placer=placer,
            host=host,
            spans=self._spans,
            metrics=metrics,
            observers=observers,
            tasks=self._tasks,
            freed=self.woken,
        )
        self._rounds = Rounds(book=book, placer=placer, attempts=self._attempts, spans=self._spans, metrics=metrics)

    async def start(self) -> None:
        """Takes up what an earlier controller left, and begins to place jobs."""
        await self.recover()
        self._tasks.spawn(self._rounds.for_ever())

    async def recover(self) -> None:
        """Jobs that were under way go back to the queue; shares that outlived their run are given back."""
        for job in self._book.open:
            if job.state in (JobState.SCHEDULED, JobState.RUNNING):
                message = "The controller was restarted; it goes on from its last checkpoint."
                ending = Ending(reason=JobReason.CONTROLLER_RESTARTED, message=message)
                job = await self._book.change(job.id, lambda now, e=ending: changes.ended(now, e, at=self._book.now()))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            if job.placed is not None:
                self._attempts.settle_leftover(job)

    async def close(self) -> None:
        await self._tasks.close()

    async def round(self) -> None:
        """Tries to place what waits, once. `start` does this by itself."""
        await self._rounds.once()

    def woken(self) -> None:
        """Room may have come: the queue is looked at now."""
        self._rounds.woken.set()

    # -- What users ask ------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, *, job_id: str | None = None) -> Job | JobRefusal:
        """The job once it is written down. A `job_id` of the caller's makes the call safe to repeat."""
        if job_id is not None and (known := self._book.job(job_id)) is not None:
            return known
        if len(self._book.open) >= MAX_UNSETTLED:
            message = f"There are {MAX_UNSETTLED} jobs that are not over. Wait until some end, or cancel some."
            return JobRefusal(reason=JobRefusalReason.QUEUE_FULL, message=message)
        job_id = job_id or self._new_id()
        span = self._spans.submit(job_id=job_id, kind=spec.kind.value, priority=spec.priority, caller=spec.traceparent)
        job = replace(changes.submitted(job_id, spec, at=self._book.now()), submit_traceparent=span.traceparent)
        try:
            self._book.put(job)
        except sqlite3.Error as error:
            span.end(error_type=type(error).__name__)
            return _unwritten(error)
        span.end()
        if self._metrics is not None:
            self._metrics.submitted(spec.kind.value)
        self.woken()
        return job

    def show(self, job_id: str) -> JobView | JobRefusal:
        job = self._book.job(job_id)
        return _unknown(job_id) if job is None else self._view(job)

    def page(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        state: JobState | None = None,
        kind: JobKind | None = None,
        model: str | None = None,
    ) -> tuple[Sequence[JobView], int | None]:
        """Newest first, and `before` of the next page; None at the end."""
        jobs, following = self._book.ledger.page(limit=limit, before=before, state=state, kind=kind, model=model)
        return tuple(self._view(job) for job in jobs), following

    async def read_log(self, job_id: str, *, offset: int, max_bytes: int) -> LogPart | JobRefusal:
        """What the program printed; a negative offset counts from the end."""
        job = self._book.job(job_id)
        if job is None:
            return _unknown(job_id)
        if job.node is None:
            return LogPart(text="", offset=0, next_offset=0)
        try:
            return await self._host.read_log(job_id, job.node, offset=offset, max_bytes=max_bytes)
        except HeadroomError as error:
            message = f"The log lies on node '{job.node}', which cannot be asked now. {error}"
            return JobRefusal(reason=JobRefusalReason.LOG_UNAVAILABLE, message=message)

    def cancel(self, job_id: str) -> Job | JobRefusal:
        """At once for a job that waits; one that runs has 10 s to end. A second time is no error while it ends."""
        job = self._book.job(job_id)
        if job is None:
            return _unknown(job_id)
        if job.is_over:
            message = f"The job is over already ({job.state.value}): {job.message}"
            return JobRefusal(reason=JobRefusalReason.ALREADY_OVER, message=message)
        message = "It was cancelled."
        try:
            if job.state is JobState.QUEUED:
                return self._cancelled(job, message)
            job = self._book.put(changes.told_to_stop(job, reason=JobReason.CANCELLED, message=message))
        except sqlite3.Error as error:
            return _unwritten(error)
        self._attempts.stop(job)
        return job

    # -- What the controller tells -------------------------------------------------------------------

    def preempt(self, job_id: str, *, message: str) -> bool:
        """Back to the queue from its last checkpoint: notice, 10 s of grace, then it is killed.

        False when it does not run. Raises: sqlite3.Error; then it runs on.
        """
        job = self._book.job(job_id)
        if job is None or job.state not in (JobState.SCHEDULED, JobState.RUNNING):
            return False
        if job.stop is None:
            job = self._book.put(changes.told_to_stop(job, reason=JobReason.PREEMPTED, message=message))
            self._attempts.stop(job, JobEvent.PREEMPTED)
        return True

    def preempt_device(self, device: str, *, message: str) -> tuple[str, ...]:
        """The same for all jobs on a device; returns their ids."""
        return tuple(job.id for job in self.running_on(device) if self.preempt(job.id, message=message))

    def running_on(self, device: str) -> tuple[Job, ...]:
        """Jobs that hold a share of the device, ones that are about to end included."""
        return tuple(job for job in self._book.with_shares if job.placed and device in job.placed.devices)

    def device_fault(self, device: str, *, message: str) -> None:
        """Shown in the traces of what runs on the device; ends nothing."""
        for job in self.running_on(device):
            if (run := self._attempts.runs.get(job.id)) is not None:
                run.span.event(JobEvent.GPU_FAULT, {names.DEVICE: device, names.REASON: message})

    def node_lost(self, node: str, *, message: str) -> tuple[str, ...]:
        """Nobody waits for programs of this node any more; returns the jobs that go back to the queue."""
        gone = [job for job in self._book.with_shares if job.node == node and job.id in self._attempts.runs]
        for job in gone:
            self._attempts.runs[job.id].give_up(message)
        return tuple(job.id for job in gone)

    def resumed(self) -> tuple[str, ...]:
        """Checkpoints that jobs which are not over will go on from."""
        return tuple(job.resume_from for job in self._book.open if job.resume_from is not None)

    def num_waiting(self) -> int:
        return sum(job.state is JobState.QUEUED for job in self._book.open)

    def record(self) -> None:
        """Brings gauges up to now."""
        if self._metrics is None:
            return
        self._metrics.show(self._book.ledger.counts())
        self._metrics.training(self._samples())

    # -- Inside --------------------------------------------------------------------------------------

    def _cancelled(self, job: Job, message: str) -> Job:
        job = self._book.put(changes.cancelled(job, message=message, at=self._book.now()))
        self._rounds.left(job.id)
        if self._metrics is not None:
            self._metrics.finished(job.spec.kind.value, result=job.state.value)
        if job.placed is None:
            self._attempts.tell_over(job)
        return job

    def _view(self, job: Job) -> JobView:
        run = self._attempts.runs.get(job.id)
        return JobView(job=job, live=None if run is None else run.live)

    def _samples(self) -> Iterable[TrainingSample]:
        for job_id, run in self._attempts.runs.items():
            job = self._book.job(job_id)
            if job is not None and run.live.step:
                yield TrainingSample(
                    kind=job.spec.kind.value, model=job.spec.model, step=run.live.step, metrics=run.live.metrics
                )


def _unknown(job_id: str) -> JobRefusal:
    message = f"There is no job '{job_id[:64]}'. See `headroom jobs list`; old ones are forgotten."
    return JobRefusal(reason=JobRefusalReason.UNKNOWN_JOB, message=message)


def _unwritten(error: sqlite3.Error) -> JobRefusal:
    log.error("the ledger of jobs cannot be written", error=str(error))
    message = "The ledger of jobs cannot be written, so nothing was changed. Ask again; an operator must look."
    return JobRefusal(reason=JobRefusalReason.LEDGER_UNAVAILABLE, message=message)
