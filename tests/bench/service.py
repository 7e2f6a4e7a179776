"""A whole service under measurement: any command that serves HTTP, with everything it starts.

Its CPU time and memory are those of its process tree; `mark` also finds what left the tree.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

_END_S = 60.0
_POLL_S = 0.1
_TAIL_LINES = 20


class ServiceFailed(Exception):
    """The service ended, or did not get ready in time; the text ends with the tail of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`start_s`: from the first process to ready."""

    name: str
    url: str
    process: psutil.Process
    start_s: float

    def cpu_s(self) -> float:
        """User and system time of all its processes."""
        total_s = 0.0
        for one in self._processes():
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                total_s += times.user + times.system
        return total_s

    def pss_bytes(self) -> int:
        """Proportional set size of all its processes: a page that several share is counted once."""
        total = 0
        for one in self._processes():
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().pss
        return total

    def busy_cores(self, *, over_s: float) -> float:
        """CPU seconds it uses per second; asked while nobody sends it anything."""
        before_s = self.cpu_s()
        time.sleep(over_s)
        return (self.cpu_s() - before_s) / over_s

    def _processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. `variables` are added to this process's environment; `ready` is asked with the service's URL."""

    name: str
    arguments: Sequence[str]
    variables: Mapping[str, str]
    url: str
    ready: Callable[[str], bool]
    log: Path
    ready_within_s: float = 300.0


@contextlib.contextmanager
def running(command: Command) -> Iterator[Service]:
    """The service, ready, until the block ends. Raises ServiceFailed."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    with command.log.open("wb") as log:
        process = subprocess.Popen(
            list(command.arguments),
            env={**os.environ, **command.variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(command, process, began_s)
        yield Service(
            name=command.name,
            url=command.url,
            process=psutil.Process(process.pid),
            start_s=time.monotonic() - began_s,
        )
    finally:
        _end(process)


def end_services_on_sigterm() -> None:
    """Call first in a bench: SIGTERM then leaves the `with` blocks of all services, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended by SIGTERM"))


def answers_200(path: str) -> Callable[[str], bool]:
    """Ready when GET `path` gives 200."""

    def ready(url: str) -> bool:
        try:
            return httpx.get(url + path, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    return ready


def answers_a_chat(path: str, body: bytes) -> Callable[[str], bool]:
    """Ready when POST `path` with `body` gives 200; a list of models may be there long before an engine is."""

    def ready(url: str) -> bool:
        try:
            sent = {"content": body, "headers": {"content-type": "application/json"}}
            return httpx.post(url + path, timeout=60, **sent).status_code == 200  # type: ignore[arg-type]  # by key
        except httpx.HTTPError:
            return False

    return ready


def _wait(command: Command, process: subprocess.Popen[bytes], began_s: float) -> None:
    while not command.ready(command.url):
        if process.poll() is not None:
            raise ServiceFailed(f"{command.name} ended with code {process.returncode}.\n{_tail(command.log)}")
        if time.monotonic() - began_s > command.ready_within_s:
            raise ServiceFailed(
                f"{command.name} was not ready in {command.ready_within_s:.0f} s.\n{_tail(command.log)}"
            )
        time.sleep(_POLL_S)


def _tail(log: Path) -> str:
    return "\n".join([f"The end of {log}:", *log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Politely, then for certain, and whatever it started with it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_END_S)
        for one in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(below, timeout=_END_S)
    process.kill()
    process.wait()
