"""Bytes that processes really hold: proportional set size on a host, NVML's figure on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psutil

SHARE_VARIABLE = "HEADROOM_SHARE"
"""Set in a replica before it starts its engine, so that every child carries it."""
LEASE_MARK = "lease:"
"""Begins the mark of programs that `headroom lease run` started; the lease's id follows."""

JOB_MARK = "job:"
"""Begins the mark of a job's program; the job's id follows."""


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """One process for certain: ids are reused, start times with them are not."""

    pid: int
    started_s: float
    """Seconds since the epoch, as the kernel counts them; only ever compared for equality."""


def own_process() -> ProcessKey:
    process = psutil.Process()
    return ProcessKey(process.pid, process.create_time())


def process_tree(pid: int) -> tuple[ProcessKey, ...]:
    """The process and all its descendants; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return tuple(ProcessKey(p.pid, p.create_time()) for p in (root, *root.children(recursive=True)))
    except psutil.NoSuchProcess:
        return ()


def marked_processes() -> dict[str, list[ProcessKey]]:
    """Processes of this node by the `HEADROOM_SHARE` in the environment they were started with.

    Finds an engine core whose parent is already dead, which no process tree shows any more.
    """
    found: dict[str, list[ProcessKey]] = {}
    for process in psutil.process_iter():
        try:
            marker = process.environ().get(SHARE_VARIABLE)
            if marker is not None:
                found.setdefault(marker, []).append(ProcessKey(process.pid, process.create_time()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def share_processes(
    root: ProcessKey, marker: str, marked: Mapping[str, Sequence[ProcessKey]] | None = None
) -> tuple[ProcessKey, ...]:
    """Everything that belongs to one share: the replica's tree, and what it left behind.

    `marked` are all marked processes of the node; None looks for them.
    """
    tree = process_tree(root.pid) if is_running(root) else ()
    known = marked_processes() if marked is None else marked
    return tuple(dict.fromkeys((*tree, *known.get(marker, ()))))


def is_running(key: ProcessKey) -> bool:
    try:
        process = psutil.Process(key.pid)
        return process.create_time() == key.started_s and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def proportional_set_bytes(keys: Iterable[ProcessKey]) -> int:
    """Sum of PSS in bytes: each shared page counted by its share, so that engines can be added up.

    Source: /proc/<pid>/smaps_rollup through psutil.
    """
    total = 0
    for key in keys:
        try:
            if is_running(key):
                total += psutil.Process(key.pid).memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def end_processes(keys: Iterable[ProcessKey], *, timeout_s: float) -> tuple[ProcessKey, ...]:
    """Kill those that still run, wait until they are gone, and return any that would not go."""
    processes = [psutil.Process(key.pid) for key in keys if is_running(key)]
    for process in processes:
        process.kill()
    _, stubborn = psutil.wait_procs(processes, timeout=timeout_s)
    return tuple(ProcessKey(p.pid, p.create_time()) for p in stubborn if p.is_running())
