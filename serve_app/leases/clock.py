"""The clocks leases live by: one that never stands still and never goes back, and the wall for showing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    @property
    def boot(self) -> str:
        """Names what `now_s` counts from: two readings compare only under the same name."""
        ...

    def now_s(self) -> float: ...

    def unix_s(self) -> float: ...


class SystemClock:
    """Counts from the machine's start, also while it sleeps: a suspended holder must not believe in its lease longer.

    The same in all processes of one machine, so a restart of the lease server knows exactly how long it was away.
    """

    def __init__(self) -> None:
        self.boot = _BOOT_ID.read_text(encoding="ascii").strip()

    def now_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def unix_s(self) -> float:
        return time.time()
