"""What Headroom asks of NVML in more than one place: a session, memory and its holders, links, PCI addresses.

Source: `pynvml` from the package nvidia-ml-py. Reading needs no CUDA context and takes no device memory. Functions
that take `nvml` want the module `pynvml` inside an `nvml_session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from placement.signals import ProcessBytes
from serve_app.errors import DeviceUnreadable

T = TypeVar("T")
PCI_DEVICES = Path("/sys/bus/pci/devices")


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
    """One session for each call, since the driver resets no device that somebody has open.

    Raises: DeviceUnreadable when NVML or the device does not answer.
    """
    import pynvml

    with nvml_session():
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            processes = running_processes(pynvml, handle)
        except pynvml.NVMLError as error:
            raise DeviceUnreadable(
                f"NVML does not read device {uuid}: {error}.",
                expected="A device that this node has, and that works.",
                advice="Run `nvidia-smi -L`.",
            ) from error
    by_pid = {process.pid: process.num_bytes or 0 for process in processes}
    return DeviceMemory(total_bytes=int(memory.total), used_bytes=int(memory.used), bytes_by_pid=by_pid)


def uuid_of_visible_device(visible: str) -> str:
    """UUID behind the first entry of a `CUDA_VISIBLE_DEVICES` value, which holds indices or UUIDs."""
    import pynvml

    first = visible.split(",")[0].strip()
    if first.startswith("GPU-"):
        return first
    with nvml_session():
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(int(first))))


def offered(nvml: Any, read: Callable[[], T]) -> T | None:
    """What `read` returns; None where this device, driver or container does not offer it. Other errors go on."""
    not_offered = (
        nvml.NVML_ERROR_NOT_SUPPORTED,
        nvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        nvml.NVML_ERROR_DEPRECATED,
        nvml.NVML_ERROR_NO_PERMISSION,
    )
    try:
        return read()
    except nvml.NVMLError as error:
        if error.value in not_offered:
            return None
        raise


def running_processes(nvml: Any, handle: Any) -> tuple[ProcessBytes, ...]:
    """Processes with a compute context on the device. Empty where the driver names none."""
    running = offered(nvml, partial(nvml.nvmlDeviceGetComputeRunningProcesses, handle)) or ()
    return tuple(
        ProcessBytes(pid=int(process.pid), num_bytes=None if size is None else int(size))
        for process in running
        for size in (process.usedGpuMemory,)
    )


def nvlink_states(nvml: Any, handle: Any) -> dict[int, bool]:
    """By the number of each NVLink this device has, whether it is up."""
    states = {}
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            state = offered(nvml, partial(nvml.nvmlDeviceGetNvLinkState, handle, link))
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_INVALID_ARGUMENT:  # past the last link of this device
                raise
            state = None
        if state is not None:
            states[link] = bool(state)
    return states


def numa_node(nvml: Any, handle: Any, *, pci_devices: Path = PCI_DEVICES) -> int | None:
    """The node whose memory is nearest, from sysfs; None where the firmware does not say (-1), or sysfs is not there.

    `nvmlDeviceGetNumaNodeId` means something else: the node that the device's own memory makes on coherent machines.
    """
    try:
        text = (pci_devices / pci_address(nvml.nvmlDeviceGetPciInfo(handle)) / "numa_node").read_text()
    except OSError:
        return None
    number = int(text)
    return number if number >= 0 else None


def pci_address(pci: Any) -> str:
    """`0000:3b:00.0` as sysfs spells it; NVML gives eight digits for the domain."""
    bus_id = pci.busId.decode() if isinstance(pci.busId, bytes) else str(pci.busId)
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
