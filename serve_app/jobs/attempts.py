"""One attempt of a job from its shares to their return: start, listen, write down, give back.

Owns the runs that live now. Which job runs when is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from serve_app.errors import HeadroomError
from serve_app.jobs import changes
from serve_app.jobs.book import JobBook, JobObserver
from serve_app.jobs.job import NO_ERROR, Ending, Job, JobReason
from serve_app.jobs.messages import Said, Saved
from serve_app.jobs.ports import Ended, Host, Placer, RunOrder
from serve_app.jobs.run import Run, log
from serve_app.jobs.tasks import Tasks
from tracing import names
from tracing.job_metrics import REQUEUED, JobMetrics
from tracing.job_spans import JobSpans, OpenSpan
from tracing.names import JobEvent

GIVE_BACK_AGAIN_S: Final = 5.0


class Attempts:
    """`freed` is called whenever room may have come back."""

    def __init__(
        self,
        *,
        book: JobBook,
        placer: Placer,
        host: Host,
        spans: JobSpans,
        metrics: JobMetrics | None,
        observers: Sequence[JobObserver],
        tasks: Tasks,
        freed: Callable[[], None],
    ) -> None:
        self._book = book
        self._placer = placer
        self._host = host
        self._spans = spans
        self._metrics = metrics
        self._observers = observers
        self._tasks = tasks
        self._freed = freed
        self.runs: dict[str, Run] = {}

    def begin(self, job: Job, schedule: str | None) -> None:
        """`schedule` is the `traceparent` of the span that placed it."""
        self._tasks.spawn(self._attempt(job, schedule))

    def stop(self, job: Job, event: JobEvent | None = None) -> None:
        """Its program ends soon. `job` was told to stop already; without a program yet it is stopped once it starts."""
        run = self.runs.get(job.id)
        if run is None:
            return
        if event is not None:
            run.span.event(event, {names.REASON: job.stop_message})
        if run.handle is not None:
            self._tasks.spawn(run.stop())

    def settle_leftover(self, job: Job) -> None:
        """For a job whose shares outlived the process that ran it."""
        self._tasks.spawn(self._give_back(job))

    def tell_over(self, job: Job) -> None:
        for observer in self._observers:
            observer.over(job)

    async def _attempt(self, job: Job, schedule: str | None) -> None:
        run = self.runs[job.id] = Run(self._spans.run(schedule, facts=_run_facts(job)))
        try:
            ending = await self._ending(job, run)
            began = self._known(job.id).started or self._book.now()
            job = await self._book.change(job.id, lambda now: changes.ended(now, ending, at=self._book.now()))
        finally:
            del self.runs[job.id]
        run.span.tell({names.JOB_RESULT: _result(job), names.REASON: job.reason.value})
        run.span.end(error_type=None if job.reason in NO_ERROR else job.reason.value)
        self._count_end(job, run_s=self._book.now().now_s - began.now_s)
        await self._settled(job, run.span)

    async def _ending(self, job: Job, run: Run) -> Ending:
        assert job.placed is not None
        if (told := self._told_to_stop(job.id)) is not None:
            return told
        try:
            run.handle = await self._host.start(RunOrder(job=job, placed=job.placed, traceparent=run.span.traceparent))
        except HeadroomError as error:
            return Ending(reason=JobReason.NODE_LOST, message=str(error))
        await self._book.change(
            job.id, lambda now: changes.running(now, run_traceparent=run.span.traceparent, at=self._book.now())
        )
        if self._told_to_stop(job.id) is not None:
            self._tasks.spawn(run.stop())
        async for event in run.said():
            if isinstance(event, Ended):
                return event.ending
            await self._heard(job.id, event, run.span)
        raise AssertionError("a run says its end in any case")

    def _told_to_stop(self, job_id: str) -> Ending | None:
        job = self._known(job_id)
        return None if job.stop is None else Ending(reason=job.stop, message=job.stop_message)

    def _known(self, job_id: str) -> Job:
        job = self._book.job(job_id)
        assert job is not None, "a job with shares stays in the book"
        return job

    async def _heard(self, job_id: str, said: Said, span: OpenSpan) -> None:
        before = self._known(job_id)
        if changes.heard(before, said) is before:
            return
        job = await self._book.change(job_id, lambda now: changes.heard(now, said))
        if isinstance(said, Saved):
            span.event(
                JobEvent.CHECKPOINT_SAVED,
                {
                    names.CHECKPOINT_PATH: said.path,
                    names.CHECKPOINT_STEP: said.step,
                    names.WEIGHTS_VERSION: said.weights_version,
                },
            )
            for observer in self._observers:
                observer.saved(job, said)

    async def _settled(self, job: Job, run: OpenSpan) -> None:
        span = self._spans.settle(run.traceparent)
        span.tell({names.JOB_RESULT: _result(job)})
        await self._give_back(job)
        span.end()

    async def _give_back(self, job: Job) -> None:
        """Until it is done: what is not given back is lost to everybody."""
        assert job.placed is not None
        while True:
            try:
                await self._host.clear(job.id, job.placed)
                await self._placer.free(job.placed)
                break
            except HeadroomError as error:
                log.error("a job's shares cannot be given back", job=job.id, error=str(error))
                await self._book.pause(GIVE_BACK_AGAIN_S)
        job = await self._book.change(job.id, changes.given_back)
        if job.is_over:
            self.tell_over(job)
        self._freed()

    def _count_end(self, job: Job, *, run_s: float) -> None:
        log.info("job attempt ended", job=job.id, attempt=job.attempt, state=job.state.value, reason=job.reason.value)
        if self._metrics is None:
            return
        kind = job.spec.kind.value
        self._metrics.ran(kind, result=_result(job), run_s=run_s)
        if job.reason is JobReason.PREEMPTED:
            self._metrics.preempted(kind)
        if job.is_over:
            self._metrics.finished(kind, result=job.state.value)


def _result(job: Job) -> str:
    return job.state.value if job.is_over else REQUEUED


def _run_facts(job: Job) -> dict[str, str | int | tuple[str, ...]]:
    assert job.placed is not None
    facts: dict[str, str | int | tuple[str, ...]] = {
        names.JOB_ID: job.id,
        names.JOB_KIND: job.spec.kind.value,
        names.JOB_ATTEMPT: job.attempt,
        names.JOB_DEVICES: job.placed.devices,
    }
    if job.placed.uuids:
        facts[names.HARDWARE_ID] = job.placed.uuids
    if job.spec.model is not None:
        facts[names.MODEL] = job.spec.model
    return facts
