"""The GPUs of this machine as devices of the inventory, through NVML. Takes no device memory.

`nvml` is the module `pynvml` inside an `nvml_session`, or something that answers like it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from placement.inventory import Device, DeviceHealth, DeviceKind, Holding, HoldingKind

T = TypeVar("T")
UNATTRIBUTED = "driver and processes it does not name"
PCI_DEVICES = Path("/sys/bus/pci/devices")


def cuda_devices(
    nvml: Any, *, node: str, own_pids: frozenset[int] = frozenset(), pci_devices: Path = PCI_DEVICES
) -> tuple[Device, ...]:
    """Every GPU in NVML's order; one that does not answer is LOST with no bytes, so that nothing is placed there."""
    reader = _Reader(nvml, node=node, own_pids=own_pids, pci_devices=pci_devices)
    links = [_read(nvml, index, partial(_links, nvml)) for index in range(nvml.nvmlDeviceGetCount())]
    devices = []
    for index in range(len(links)):
        device = _read(nvml, index, partial(reader.device, index=index, peers=_peers(links, index, node)))
        devices.append(device or _lost(node, index))
    return tuple(devices)


@dataclass(frozen=True, slots=True)
class _Links:
    """PCI address of a GPU, and the addresses its active NVLinks lead to (GPUs or switches)."""

    address: str
    remotes: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Reader:
    nvml: Any
    node: str
    own_pids: frozenset[int]
    pci_devices: Path

    def device(self, handle: Any, *, index: int, peers: tuple[str, ...]) -> Device:
        return Device(
            id=device_id(self.node, index),
            uuid=str(self.nvml.nvmlDeviceGetUUID(handle)),
            node=self.node,
            index=index,
            kind=DeviceKind.CUDA,
            product=str(self.nvml.nvmlDeviceGetName(handle)),
            total_bytes=int(self.nvml.nvmlDeviceGetMemoryInfo(handle).total),
            numa_node=self._numa_node(handle),
            nvlink_peers=peers,
            holdings=self._holdings(handle),
        )

    def _holdings(self, handle: Any) -> tuple[Holding, ...]:
        """Each foreign process, and what is used but belongs to no process that the driver names."""
        used = int(self.nvml.nvmlDeviceGetMemoryInfo(handle).used)
        running = self.nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        by_pid = {process.pid: int(process.usedGpuMemory or 0) for process in running}
        rest = max(0, used - sum(by_pid.values()))
        foreign = [(_process(pid), size) for pid, size in sorted(by_pid.items()) if pid not in self.own_pids]
        return tuple(
            Holding(holder=holder, kind=HoldingKind.FOREIGN, num_bytes=size)
            for holder, size in (*foreign, (UNATTRIBUTED, rest))
            if size
        )

    def _numa_node(self, handle: Any) -> int | None:
        """From sysfs, where -1 means that the firmware does not say."""
        try:
            text = (self.pci_devices / _address(self.nvml.nvmlDeviceGetPciInfo(handle)) / "numa_node").read_text()
        except (OSError, self.nvml.NVMLError):
            return None
        number = int(text)
        return number if number >= 0 else None


def device_id(node: str, index: int) -> str:
    return f"{node}/gpu-{index}"


def _read(nvml: Any, index: int, read: Callable[[Any], T]) -> T | None:
    """What `read` makes of the device; None when the driver cannot reach it."""
    try:
        return read(nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError:
        return None


def _lost(node: str, index: int) -> Device:
    return Device(
        id=device_id(node, index),
        uuid=device_id(node, index),
        node=node,
        index=index,
        kind=DeviceKind.CUDA,
        product="does not answer",
        total_bytes=0,
        health=DeviceHealth.LOST,
    )


def _links(nvml: Any, handle: Any) -> _Links:
    remotes = set()
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if nvml.nvmlDeviceGetNvLinkState(handle, link):
                remotes.add(_address(nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link)))
        except nvml.NVMLError:
            continue  # this link does not exist here
    return _Links(_address(nvml.nvmlDeviceGetPciInfo(handle)), frozenset(remotes))


def _peers(links: list[_Links | None], index: int, node: str) -> tuple[str, ...]:
    """GPUs linked directly, or over a switch: an NVLink that leads to no GPU leads to one."""
    here = links[index]
    gpus = {link.address for link in links if link}
    if here is None:
        return ()
    return tuple(
        device_id(node, other)
        for other, there in enumerate(links)
        if there
        and other != index
        and (there.address in here.remotes or (here.remotes - gpus and there.remotes - gpus))
    )


def _address(pci: Any) -> str:
    """`0000:3b:00.0` as sysfs spells it; NVML gives eight digits for the domain."""
    bus_id = pci.busId.decode() if isinstance(pci.busId, bytes) else str(pci.busId)
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _process(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
