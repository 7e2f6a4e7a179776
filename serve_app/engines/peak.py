"""The most memory a start reached, by looking at it several times a second from a thread."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

from placement.inventory import DeviceKind
from serve_app.fleet.process_memory import own_process, proportional_set_bytes, share_processes

_PERIOD_S = 0.5


class PeakSampler:
    """Context manager; `peak_bytes` and `last_bytes` are per device, both 0 before the block has ended.

    On host memory this is the proportional set size of the replica and all it started. On a CUDA device
    it is what NVML gives for those processes on their first device.
    """

    def __init__(self, *, marker: str, kind: DeviceKind) -> None:
        self._marker = marker
        self._kind = kind
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-sampler", daemon=True)
        self.peak_bytes = 0
        self.last_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            self._sample()

    def _sample(self) -> None:
        self.last_bytes = held_by_replica(marker=self._marker, kind=self._kind)
        self.peak_bytes = max(self.peak_bytes, self.last_bytes)


def held_by_replica(*, marker: str, kind: DeviceKind) -> int:
    """Bytes per device, of this process and all it started."""
    keys = share_processes(own_process(), marker)
    if kind is not DeviceKind.CUDA:
        return proportional_set_bytes(keys)
    from serve_app.fleet.nvml import read_device_memory, uuid_of_visible_device

    memory = read_device_memory(uuid_of_visible_device(os.environ["CUDA_VISIBLE_DEVICES"]))
    return sum(memory.bytes_by_pid.get(key.pid, 0) for key in keys)
