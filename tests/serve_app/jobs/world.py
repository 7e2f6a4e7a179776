"""A placer and a host that a test moves by hand, and a service between them; time stands until it is set."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve_app.errors import HeadroomError
from serve_app.jobs.book import JobBook, JobObserver
from serve_app.jobs.job import (
    GIB,
    Ending,
    Job,
    JobKind,
    JobLimits,
    JobReason,
    JobSpec,
    JobState,
    Placed,
)
from serve_app.jobs.ledger import JobClock, JobLedger
from serve_app.jobs.messages import Progress, Said, Saved
from serve_app.jobs.ports import Blocked, Ended, LogPart, RunOrder
from serve_app.jobs.service import JobRefusal, JobService
from tests.serve_app.leases.serving import HandClock
from tracing.job_metrics import JobMetrics
from tracing.job_spans import JobSpans

DEVICE = "node-1/gpu-0"
DONE = Ending(reason=JobReason.DONE, message="Done.", exit_status=0)
EXITED = Ending(reason=JobReason.EXITED, message="Exit status 1: boom.", exit_status=1)


def script(
    *,
    gib: int = 1,
    priority: int = 100,
    num_failures: int = 3,
    run_s: float = 3600.0,
    traceparent: str | None = None,
    resume_from: str | None = None,
) -> JobSpec:
    return JobSpec(
        kind=JobKind.SCRIPT,
        command=("true",),
        num_bytes=gib * GIB,
        priority=priority,
        limits=JobLimits(run_s=run_s, num_failures=num_failures),
        traceparent=traceparent,
        resume_from=resume_from,
    )


def saved(step: int) -> Saved:
    return Saved(path=f"/models/mini/checkpoint-{step}", step=step, weights_version=f"{step:012x}")


def progress(step: int, **metrics: float) -> Progress:
    return Progress(step=step, num_steps=100, metrics=metrics)


class RoomPlacer:
    """Devices with so many GiB; the first with room takes a job. Counts what it gave and got back."""

    def __init__(self, rooms_gib: Mapping[str, int]) -> None:
        self.free_bytes = {device: gib * GIB for device, gib in rooms_gib.items()}
        self.held: dict[int, tuple[str, int]] = {}
        self.asked: list[str] = []
        self.during: Callable[[Job], object] = lambda _: None
        """Called while a job is being placed."""
        self._epochs = itertools.count(1)

    async def place(self, job: Job) -> Placed | Blocked:
        self.asked.append(job.id)
        self.during(job)
        await asyncio.sleep(0)
        for device, free in self.free_bytes.items():
            if free >= job.spec.num_bytes:
                epoch = next(self._epochs)
                self.free_bytes[device] -= job.spec.num_bytes
                self.held[epoch] = (device, job.spec.num_bytes)
                return Placed(node=device.split("/")[0], devices=(device,), epoch=epoch)
        return Blocked(message=f"No room for {job.spec.num_bytes / GIB:.0f} GiB.")

    async def free(self, placed: Placed) -> None:
        if placed.epoch in self.held:
            device, num_bytes = self.held.pop(placed.epoch)
            self.free_bytes[device] += num_bytes


@dataclass
class ScriptedRun:
    order: RunOrder
    told: asyncio.Queue[Said | Ended | None] = field(default_factory=asyncio.Queue)
    stopped: int = 0
    ends_on_stop: bool = True

    async def events(self) -> AsyncIterator[Said | Ended]:
        while (event := await self.told.get()) is not None:
            yield event

    async def stop(self, *, grace_s: float) -> None:
        self.stopped += 1
        if self.ends_on_stop:
            self.end(DONE)  # as a program that ends well on SIGTERM

    def say(self, *said: Said) -> None:
        for one in said:
            self.told.put_nowait(one)

    def end(self, ending: Ending = DONE) -> None:
        self.told.put_nowait(Ended(ending=ending))

    def lose(self) -> None:
        self.told.put_nowait(None)


class ScriptedHost:
    """Starts nothing; keeps every run for the test to speak for it."""

    def __init__(self) -> None:
        self.runs: list[ScriptedRun] = []
        self.cleared: list[str] = []
        self.unreachable: str | None = None

    async def start(self, order: RunOrder) -> ScriptedRun:
        await asyncio.sleep(0)
        if self.unreachable is not None:
            raise HeadroomError(self.unreachable)
        self.runs.append(ScriptedRun(order))
        return self.runs[-1]

    async def clear(self, job_id: str, placed: Placed) -> None:
        self.cleared.append(job_id)

    async def read_log(self, job_id: str, node: str, *, offset: int, max_bytes: int) -> LogPart:
        if self.unreachable is not None:
            raise HeadroomError(self.unreachable)
        return LogPart(text=f"{job_id} on {node}", offset=offset, next_offset=offset + 5)


class Heard:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.checkpoints: list[str] = []
        self.ended: list[str] = []

    def saved(self, job: Job, saved: Saved) -> None:
        self.checkpoints.append(saved.path)

    def over(self, job: Job) -> None:
        self.ended.append(job.id)


@dataclass
class World:
    """The ledger's file outlives a service."""

    path: Path
    rooms_gib: Mapping[str, int] = field(default_factory=lambda: {DEVICE: 10})
    clock: HandClock = field(default_factory=HandClock)
    spans: JobSpans | None = None
    metrics: JobMetrics | None = None
    wrap: Callable[[JobLedger], JobLedger] = lambda ledger: ledger

    def __post_init__(self) -> None:
        self.numbers = itertools.count(1)
        self.restart()

    def restart(self) -> None:
        """A new process: shares and programs of the old one are gone, the file is there."""
        self.placer = RoomPlacer(self.rooms_gib)
        self.host = ScriptedHost()
        self.heard = Heard()
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.ledger = self.wrap(JobLedger(self.db))
        observers: tuple[JobObserver, ...] = (self.heard,)
        book = JobBook(self.ledger, now=JobClock(self.clock, self.ledger).now, pause=self._pause)
        self.service = JobService(
            book=book,
            placer=self.placer,
            host=self.host,
            spans=self.spans,
            metrics=self.metrics,
            observers=observers,
            new_id=lambda: f"job-{next(self.numbers)}",
        )

    async def _pause(self, pause_s: float) -> None:
        self.clock.at_s += pause_s
        await asyncio.sleep(0)

    def submit(self, spec: JobSpec | None = None) -> str:
        job = self.service.submit(spec or script())
        assert isinstance(job, Job), job
        return job.id

    async def settle(self) -> None:
        """Lets everything happen that can happen without the test doing something."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def round(self) -> None:
        await self.service.round()
        await self.settle()

    def job(self, job_id: str) -> Job:
        view = self.service.show(job_id)
        assert not isinstance(view, JobRefusal), view
        return view.job

    def state(self, job_id: str) -> JobState:
        return self.job(job_id).state

    def run(self, job_id: str) -> ScriptedRun:
        """Its newest run."""
        return next(run for run in reversed(self.host.runs) if run.order.job.id == job_id)

    def pass_s(self, seconds: float) -> None:
        self.clock.at_s += seconds
        self.clock.wall_s += seconds


def at_priority(spec: JobSpec, priority: int) -> JobSpec:
    return replace(spec, priority=priority)
