"""One program of a job, in custody: its own process group, watched, heard, and gone with all it started at the end.

Real processes, no Ray: the actor around it is `actor`. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from serve_app.config.sizes import size_text
from serve_app.fleet.process_memory import JOB_MARK, SHARE_VARIABLE, end_processes, marked_processes
from serve_app.jobs.child import Child
from serve_app.jobs.endings import ending_of
from serve_app.jobs.job import Ending, JobReason
from serve_app.jobs.lines import LastLines, Lines
from serve_app.jobs.log_file import LogFile
from serve_app.jobs.messages import FOLDER_VARIABLE, JOB_VARIABLE, RESUME_VARIABLE, Failed, Said, read_line
from serve_app.jobs.ports import Ended, RunOrder
from serve_app.logs import logger

"""Begins the share mark of a job's program; the job's id follows."""
CONFIG_VARIABLE: Final = "HEADROOM_JOB_CONFIG"
"""Environment of the program: its config as JSON text; unset when there is none."""
ATTEMPT_VARIABLE: Final = "HEADROOM_JOB_ATTEMPT"
LEAST_FREE_BYTES: Final = 512 * 2**20
"""A job that brings its disk below this is ended, before the controller's own store has no room."""
_CHUNK_BYTES: Final = 1 << 16
_LOOK_S: Final = 1.0
_GONE_S: Final = 10.0
_MAX_UNREAD: Final = 1000
_ROOT: Final = str(Path(__file__).parents[2])
_PASSED_ON: Final = ("HEADROOM_HOME",)
_OURS: Final = ("RAY_", "HEADROOM_")
log = logger("jobs")


def mark_of(job_id: str) -> str:
    return f"{JOB_MARK}{job_id}"


def job_folder(home: Path, job_id: str) -> Path:
    return home / "jobs" / job_id


def environment(order: RunOrder, folder: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the program finds. Nothing of Ray's and ours is passed on: there are tokens among it."""
    job = order.job
    kept = {name: value for name, value in inherited.items() if name in _PASSED_ON or not name.startswith(_OURS)}
    ours = {
        JOB_VARIABLE: job.id,
        ATTEMPT_VARIABLE: str(job.attempt),
        FOLDER_VARIABLE: str(folder),
        SHARE_VARIABLE: mark_of(job.id),
        CONFIG_VARIABLE: job.spec.config,
        RESUME_VARIABLE: job.resume_from or "",
        "TRACEPARENT": order.traceparent or "",
        "CUDA_VISIBLE_DEVICES": ",".join(order.placed.uuids),
    }
    kept.pop("TRACEPARENT", None)
    paths = os.pathsep.join(filter(None, (_ROOT, inherited.get("PYTHONPATH"))))  # our trainer, and `messages`
    return {
        **kept,
        "PYTHONPATH": paths,
        "PYTHONUNBUFFERED": "1",
        **{name: value for name, value in ours.items() if value},
    }


class Program:
    """One run. `events` starts it and must be read to its end; `stop` may be called at any time, more than once."""

    def __init__(
        self,
        order: RunOrder,
        *,
        folder: Path,
        inherited: Mapping[str, str] = os.environ,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._order = order
        self._limits = order.job.spec.limits
        self._folder = folder
        self._inherited = inherited
        self._free_bytes = free_bytes
        self._log = LogFile(folder, max_bytes=self._limits.log_bytes)
        self._last = LastLines()
        self._unread: asyncio.Queue[Said] = asyncio.Queue(_MAX_UNREAD)
        self._child: Child | None = None
        self._stopped: Ending | None = None
        self._failed: Failed | None = None
        self._heard_s = 0.0

    async def events(self) -> AsyncIterator[Said | Ended]:
        """What it says, then `Ended`, once it and all it started are gone."""
        if (refused := self._disk_is_full()) is not None:
            yield Ended(ending=refused)
            return
        run = asyncio.get_running_loop().create_task(self._run())
        try:
            while not (run.done() and self._unread.empty()):
                said = await self._next(run)
                if said is not None:
                    yield said
            yield Ended(ending=run.result())
        finally:
            if not run.done():  # nobody listens any more
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)

    async def stop(self, *, grace_s: float) -> None:
        """SIGTERM to the whole group, SIGKILL after the grace. Returns when it is gone or killed."""
        await self._end(None, grace_s=grace_s)

    async def _run(self) -> Ending:
        self._note(f"attempt {self._order.job.attempt} begins")
        env = environment(self._order, self._folder, self._inherited)
        child, out, err = await Child.start(self._order.job.spec.command, folder=self._folder, environment=env)
        self._child = child
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        if self._stopped is not None:
            child.signal(signal.SIGKILL)  # told to stop before it began
        watching = loop.create_task(self._watch())
        reading = asyncio.gather(self._read(out, is_heard=True), self._read(err, is_heard=False))
        try:
            status = await child.wait()
            child.signal(signal.SIGKILL)  # what it started and left behind
            await asyncio.to_thread(clear, self._order.job.id)
            with contextlib.suppress(TimeoutError):  # somebody unknown holds its pipe
                await asyncio.wait_for(reading, _GONE_S)
        finally:
            watching.cancel()
            reading.cancel()
            await asyncio.gather(watching, reading, return_exceptions=True)
            await child.close()
        if self._log.num_lost:
            log.warning("a job's log was not kept", job=self._order.job.id, num_lost_bytes=self._log.num_lost)
        return ending_of(status, stopped=self._stopped, failed=self._failed, last_lines=self._last.text())

    async def _read(self, pipe: asyncio.StreamReader, *, is_heard: bool) -> None:
        lines = Lines()
        while True:
            data = await pipe.read(_CHUNK_BYTES)
            self._heard_s = asyncio.get_running_loop().time()
            for line in lines.split(data):
                await self._take(line, is_heard=is_heard)
            if not data:
                return

    async def _take(self, line: bytes, *, is_heard: bool) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        said = self._said(text) if is_heard else None
        if said is None:
            self._log.write(line)
            self._last.add(text)
            return
        if isinstance(said, Failed):
            self._failed = said
        await self._unread.put(said)  # a program that says more than is heard waits in its pipe

    def _said(self, text: str) -> Said | None:
        try:
            return read_line(text)
        except ValueError:
            self._note("the next line begins as a message and is none")
            return None

    async def _next(self, run: asyncio.Task[Ending]) -> Said | None:
        """None when the run ended first."""
        coming = asyncio.ensure_future(self._unread.get())
        await asyncio.wait({coming, run}, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        coming.cancel()
        await asyncio.wait({coming})
        return None if coming.cancelled() else coming.result()

    async def _watch(self) -> None:
        """Ends what is hung, takes too long, or fills the disk."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            await asyncio.sleep(min(_LOOK_S, self._limits.silence_s / 4, self._limits.run_s / 4))
            fault = self._fault(run_s=loop.time() - began_s, silent_s=loop.time() - self._heard_s)
            if fault is not None:
                self._note(fault.message)
                await self._end(fault, grace_s=min(_GONE_S, self._limits.silence_s))
                return

    def _fault(self, *, run_s: float, silent_s: float) -> Ending | None:
        if silent_s > self._limits.silence_s:
            what = f"It printed nothing for {self._limits.silence_s:g} s, its `silence_s`, so it counts as hung."
            return Ending(reason=JobReason.HUNG, message=what)
        if run_s > self._limits.run_s:
            what = f"It ran for {self._limits.run_s:g} s, its `run_s`, and was not done. Give it more, or less to do."
            return Ending(reason=JobReason.TOO_LONG, message=what)
        return self._disk_is_full()

    def _disk_is_full(self) -> Ending | None:
        free = self._free_bytes(self._folder)
        if free >= LEAST_FREE_BYTES:
            return None
        what = f"The disk of its folder has {size_text(free)} left, and {size_text(LEAST_FREE_BYTES)} are kept free."
        return Ending(reason=JobReason.DISK_FULL, message=f"{what} Make room there.")

    async def _end(self, why: Ending | None, *, grace_s: float) -> None:
        """`why` None: somebody else knows. Whoever comes first says why."""
        if self._stopped is None:
            self._stopped = why or Ending(reason=JobReason.CANCELLED, message="It was told to stop.")
        child = self._child
        if child is None or child.is_over:
            return
        child.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(child.wait(), grace_s)
        except TimeoutError:
            self._note(f"it did not end within {grace_s:g} s of SIGTERM and is killed")
            child.signal(signal.SIGKILL)

    def _note(self, what: str) -> None:
        self._log.write(f"[headroom] {what}\n".encode())


def clear(job_id: str) -> None:
    """Ends every process of this machine that carries the job's mark; blocks until they are gone."""
    mark = mark_of(job_id)
    stubborn = end_processes(marked_processes().get(mark, ()), timeout_s=_GONE_S)
    if stubborn:
        log.error("processes of a job would not go", job=job_id, pids=[key.pid for key in stubborn])
