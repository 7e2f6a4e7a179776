"""How much memory this host has, and how much of it can still be had: physical, or its control group's limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """`available_bytes` is what new processes can take without swapping, page cache that can go included."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where one version of control groups keeps its figures. Source: kernel docs, admin-guide/cgroup-v1 and -v2."""

    root: Path
    limit: str
    usage: str
    reclaimable: str


def read_host_memory(*, cgroup_root: Path = CGROUP_ROOT, own_cgroups: Path = OWN_CGROUPS) -> HostMemory:
    """The tightest of the machine and of every control group above this process."""
    physical = psutil.virtual_memory()
    total, available = int(physical.total), int(physical.available)
    for limit, used in _limited_groups(cgroup_root, own_cgroups):
        if limit < physical.total:
            total, available = min(total, limit), min(available, max(0, limit - used))
    return HostMemory(total_bytes=total, available_bytes=available)


def _limited_groups(cgroup_root: Path, own_cgroups: Path) -> Iterator[tuple[int, int]]:
    """Limit and unreclaimable use, in bytes, of each group from ours up to the root that has a limit."""
    for layout, relative in _own_groups(cgroup_root, own_cgroups):
        directory = layout.root / relative
        for group in (directory, *directory.parents):
            found = _group(group, layout)
            if found is not None:
                yield found
            if group == layout.root:
                break


def _own_groups(cgroup_root: Path, own_cgroups: Path) -> Iterator[tuple[_Layout, str]]:
    """From lines such as `0::/system.slice/x` (version 2) and `4:memory:/docker/1f` (version 1)."""
    second = _Layout(cgroup_root, "memory.max", "memory.current", "inactive_file")
    first = _Layout(cgroup_root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for line in _lines(own_cgroups):
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            yield second, path.lstrip("/")
        elif "memory" in controllers.split(","):
            yield first, path.lstrip("/")


def _group(group: Path, layout: _Layout) -> tuple[int, int] | None:
    limit, usage = _number(group / layout.limit), _number(group / layout.usage)
    if limit is None or usage is None:
        return None
    pages = (line.split() for line in _lines(group / "memory.stat"))
    reclaimable = next((int(words[1]) for words in pages if words[:1] == [layout.reclaimable]), 0)
    return limit, max(0, usage - reclaimable)


def _number(path: Path) -> int | None:
    """The file's number; None when there is no such file, or it says `max`."""
    text = "".join(_lines(path)[:1]).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
