"""Answers like the module `pynvml` for GPUs that are described, not there."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 2**30


class FakeNVMLError(Exception):
    pass


@dataclass
class FakeGpu:
    """`links` maps a link number to the PCI address it leads to. `lost` makes every question fail."""

    address: str
    total_bytes: int = 24 * GIB
    used_bytes: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)
    lost: bool = False


class FakeNvml:
    NVMLError = FakeNVMLError
    NVML_NVLINK_MAX_LINKS = 18

    def __init__(self, *gpus: FakeGpu) -> None:
        self._gpus = gpus

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  # NVML's own names, here and below
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        if self._gpus[index].lost:
            raise FakeNVMLError("GPU is lost")
        return self._gpus[index]

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return f"GPU-{gpu.address}"

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        return "Fake 24G"

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:  # noqa: N802
        return SimpleNamespace(total=gpu.total_bytes, used=gpu.used_bytes)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in gpu.processes.items()]

    def nvmlDeviceGetPciInfo(self, gpu: FakeGpu) -> Any:  # noqa: N802
        return SimpleNamespace(busId=gpu.address.encode())

    def nvmlDeviceGetNvLinkState(self, gpu: FakeGpu, link: int) -> int:  # noqa: N802
        if link not in gpu.links:
            raise FakeNVMLError("no such link")
        return 1

    def nvmlDeviceGetNvLinkRemotePciInfo(self, gpu: FakeGpu, link: int) -> Any:  # noqa: N802
        return SimpleNamespace(busId=gpu.links[link])
