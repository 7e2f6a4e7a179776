"""The GPUs of this machine as devices of the inventory, through NVML. Takes no device memory.

`nvml` is the module `pynvml` inside an `nvml_session`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from placement.inventory import Device, DeviceHealth, DeviceKind, Holding, HoldingKind
from serve_app.fleet.nvml import PCI_DEVICES, numa_node, nvlink_states, offered, pci_address, running_processes

T = TypeVar("T")
UNATTRIBUTED = "driver and processes it does not name"


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
            numa_node=numa_node(self.nvml, handle, pci_devices=self.pci_devices),
            nvlink_peers=peers,
            holdings=self._holdings(handle),
        )

    def _holdings(self, handle: Any) -> tuple[Holding, ...]:
        """Each foreign process, and what is used but belongs to no process that the driver names."""
        used = int(self.nvml.nvmlDeviceGetMemoryInfo(handle).used)
        by_pid = {process.pid: process.num_bytes or 0 for process in running_processes(self.nvml, handle)}
        rest = max(0, used - sum(by_pid.values()))
        foreign = [(_process(pid), size) for pid, size in sorted(by_pid.items()) if pid not in self.own_pids]
        return tuple(
            Holding(holder=holder, kind=HoldingKind.FOREIGN, num_bytes=size)
            for holder, size in (*foreign, (UNATTRIBUTED, rest))
            if size
        )


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
    up = [link for link, is_up in nvlink_states(nvml, handle).items() if is_up]
    remotes = [offered(nvml, partial(nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)) for link in up]
    here = pci_address(nvml.nvmlDeviceGetPciInfo(handle))
    return _Links(here, frozenset(pci_address(remote) for remote in remotes if remote is not None))


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


def _process(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
