"""Memory of one CUDA device by NVML: the whole, what is used, and by which process.

Source: `pynvml` from the package nvidia-ml-py. Reading needs no CUDA context and takes no device memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.errors import DeviceUnreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    total_bytes: int
    used_bytes: int
    bytes_by_pid: Mapping[int, int]
    """Processes with a compute context. One whose figure the driver withholds counts as 0."""


@contextmanager
def nvml_session() -> Iterator[None]:
    """NVML initialised for the block. Raises DeviceUnreadable when it cannot be."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DeviceUnreadable(
            f"NVML does not start: {error}.",
            expected="A working NVIDIA driver.",
            advice="Run `nvidia-smi`, or set `fleet.devices: host`.",
        ) from error
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def read_device_memory(uuid: str) -> DeviceMemory:
    import pynvml

    with nvml_session():
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        by_pid = {process.pid: int(process.usedGpuMemory or 0) for process in processes}
    return DeviceMemory(total_bytes=int(memory.total), used_bytes=int(memory.used), bytes_by_pid=by_pid)


def uuid_of_visible_device(visible: str) -> str:
    """UUID behind the first entry of a `CUDA_VISIBLE_DEVICES` value, which holds indices or UUIDs."""
    import pynvml

    first = visible.split(",")[0].strip()
    if first.startswith("GPU-"):
        return first
    with nvml_session():
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(int(first))))
