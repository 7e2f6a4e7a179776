"""Writes the file the stand-in answers from: devices described as values, changed while a program reads them.

The file's format stands at the head of `script.h`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

GIB = 2**30
ALL = "all"


@dataclass
class ScriptedGpu:
    """One GPU that is described, not there. `values` holds what its getters answer, by the keys of `nvml.c`.

    `processes` maps a pid to bytes, None where the driver withholds them; `links` a link number to the PCI address it
    leads to, None when it is down.
    """

    uuid: str
    address: str = "00000000:01:00.0"
    product: str = "NVIDIA A100-SXM4-40GB"
    total_bytes: int = 24 * GIB
    used_bytes: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    links: dict[int, str | None] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        yield f"gpu {self.uuid} {self.address} {self.product}"
        for key, number in {"total_bytes": self.total_bytes, "used_bytes": self.used_bytes, **self.values}.items():
            yield f"value {self.uuid} {key} {number}"
        for pid, num_bytes in self.processes.items():
            yield f"process {self.uuid} {pid} {-1 if num_bytes is None else num_bytes}"
        for link, remote in self.links.items():
            yield f"link {self.uuid} {link} {int(remote is not None)} {remote or '-'}"


FULL_VALUES = {
    "temperature_c": 61,
    "threshold_0": 93,  # shut-down
    "threshold_1": 90,  # slow-down
    "power_mw": 251_500,
    "power_limit_mw": 400_000,
    "energy_mj": 7_200_500,
    "utilization_percent": 87,
    "ecc_0_0": 3,  # corrected, volatile
    "ecc_1_0": 0,
    "ecc_0_1": 41,
    "ecc_1_1": 2,
    "clock_reasons": 0x44,  # at its power limit, and hardware thermal slow-down
    "row_remap_pending": 0,
    "row_remap_failed": 0,
    "pcie_replays": 5,
    "field_230": 0,
}
"""One device that supports everything."""


class NvmlScript:
    """The script of one stand-in. Every change is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._gpus: tuple[ScriptedGpu, ...] = ()
        self._events: list[str] = []
        self._faults: list[str] = []
        self._write()

    def devices(self, *gpus: ScriptedGpu) -> None:
        self._gpus = gpus
        self._write()

    def xid(self, uuid: str, number: int) -> None:
        self._events.append(f"xid {uuid} {number}")
        self._write()

    def fail(self, function: str, code: int, *, whom: str = ALL) -> None:
        """The function answers `code` from now on, for one device's UUID or for all."""
        self._faults.append(f"fail {function} {whom} {code}")
        self._write()

    def hang(self, function: str, *, whom: str = ALL) -> None:
        self._faults.append(f"hang {function} {whom} on")
        self._write()

    def mend(self) -> None:
        """No call fails or hangs any more."""
        self._faults.clear()
        self._write()

    def _write(self) -> None:
        lines = [*(line for gpu in self._gpus for line in gpu.lines()), *self._events, *self._faults]
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        os.replace(new, self.path)  # noqa: PTH105  # in one step: a reader never meets half a script
