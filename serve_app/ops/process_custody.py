"""Custody of every process we start: whatever they start becomes ours, and none outlives us.

Linux only: a child subreaper gets all orphans below it, so that a raylet's workers or an engine core whose
parents died are still found and ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_SHM = Path("/dev/shm")  # noqa: S108 - looked at, never written to


class Custody:
    """Start programs with `start`; `release` ends them and all their descendants, wherever they were re-parented."""

    def __init__(self) -> None:
        self._shm_before = _shared_memory()
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")

    def start(self, command: Sequence[str], *, environment: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
        """In a session of its own, so that a Ctrl-C in the terminal reaches us alone; output goes to the file."""
        with output.open("ab") as file:
            return subprocess.Popen(  # noqa: S603 - our own command lines, no shell
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def release(self, *, grace_s: float) -> int:
        """End every descendant: politely, then for certain. Returns how many had to be killed."""
        ours = _shared_memory_of(self.descendants())
        for process in self.descendants():
            _signal(process, signal.SIGTERM)
        psutil.wait_procs(self.descendants(), timeout=grace_s)
        num_killed = 0
        while remaining := self.descendants():
            for process in remaining:
                num_killed += _signal(process, signal.SIGKILL)
            psutil.wait_procs(remaining, timeout=grace_s)
            collect_zombies()
        new = _shared_memory() - self._shm_before
        for path in (new & ours) | _abandoned_semaphores(new):
            path.unlink(missing_ok=True)
        return num_killed

    def descendants(self) -> list[psutil.Process]:
        """All that live below this process; the dead ones are collected on the way."""
        collect_zombies()
        return [p for p in psutil.Process().children(recursive=True) if _lives(p)]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def collect_zombies() -> None:
    """A subreaper must wait for the orphans it got; call it now and then."""
    for child in psutil.Process().children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue


def _shared_memory() -> set[Path]:
    return set(_SHM.iterdir()) if _SHM.is_dir() else set()


def _shared_memory_of(processes: Sequence[psutil.Process]) -> set[Path]:
    """Files of /dev/shm that these processes have mapped.

    Told by inode: whoever makes a semaphore maps it under a passing name. Source: glibc `sem_open.c`.
    """
    inodes = {inode for process in processes for inode in _mapped_inodes(process.pid)}
    return {path for path in _shared_memory() if _inode(path) in inodes}


def _mapped_inodes(pid: int) -> set[int]:
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    fields = [line.split(maxsplit=5) for line in lines if f"{_SHM}/" in line]
    return {int(inode) for _, _, _, _, inode, _ in fields}


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _abandoned_semaphores(files: set[Path]) -> set[Path]:
    """Semaphores of Python's multiprocessing that nobody has mapped any more.

    Whoever was killed earlier, its resource tracker with it, leaves them. A living owner keeps its own mapped until
    it unlinks it, so that none of another program is meant. Source: CPython 3.11 `multiprocessing/synchronize.py`.
    """
    semaphores = {path for path in files if path.name.startswith("sem.mp-") and _is_ours(path)}
    return semaphores - _shared_memory_of(list(psutil.process_iter())) if semaphores else set()


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False
