"""The inventory of this machine: its GPUs, or its memory, and what others hold there already.

Needs no cluster; `headroom plan` reads it on the spot, the watch of a node reads it again and again.
"""

from __future__ import annotations

import os
import platform

from placement.inventory import Device, DeviceKind, Holding, HoldingKind, Inventory, Node
from serve_app.config.settings import DeviceChoice
from serve_app.errors import DeviceUnreadable
from serve_app.fleet.cuda_devices import cuda_devices
from serve_app.fleet.host_memory import HostMemory, read_host_memory
from serve_app.fleet.nvml import nvml_session
from serve_app.fleet.process_memory import ProcessKey, proportional_set_bytes

OTHERS_ON_HOST = "system and other processes"


def local_inventory(
    choice: DeviceChoice,
    node_name: str,
    host_total_bytes: int | None = None,
    *,
    own: frozenset[ProcessKey] = frozenset(),
    version: int = 1,
) -> Inventory:
    """A snapshot of this machine with one node, and at least one device.

    `host_total_bytes` narrows the host's memory to what we may plan with; None takes all of it.
    `own` are the processes of ours, children included: what they hold is planned, not foreign.
    Raises: DeviceUnreadable when CUDA devices were asked for and there are none, or the driver is broken.
    """
    memory = read_host_memory()
    pids = frozenset(key.pid for key in own)
    devices = () if choice is DeviceChoice.HOST else _cuda(node_name, pids, required=choice is DeviceChoice.CUDA)
    if not devices:
        own_bytes = proportional_set_bytes(own)
        devices = (host_device(memory, node_name, total_bytes=host_total_bytes, own_bytes=own_bytes),)
    node = Node(
        name=node_name,
        num_cpus=len(os.sched_getaffinity(0)),
        host_memory_bytes=host_total_bytes or memory.total_bytes,
        devices=devices,
    )
    return Inventory(version=version, nodes=(node,))


def host_device(memory: HostMemory, node: str, *, total_bytes: int | None = None, own_bytes: int = 0) -> Device:
    """The memory of a host as a device. Of `total_bytes`, whatever cannot be had and is not ours is foreign."""
    total = min(total_bytes or memory.total_bytes, memory.total_bytes)
    foreign = max(0, total - memory.available_bytes - own_bytes)
    others = Holding(holder=OTHERS_ON_HOST, kind=HoldingKind.FOREIGN, num_bytes=foreign)
    return Device(
        id=f"{node}/host",
        uuid=f"{node}/host",
        node=node,
        index=0,
        kind=DeviceKind.HOST,
        product=f"host memory ({platform.machine()})",
        total_bytes=total,
        holdings=(others,) if foreign else (),
    )


def _cuda(node: str, own_pids: frozenset[int], *, required: bool) -> tuple[Device, ...]:
    """No GPU is an empty answer, unless one is required. A broken driver is never taken for "no GPU"."""
    try:
        with nvml_session():
            import pynvml

            devices = cuda_devices(pynvml, node=node, own_pids=own_pids)
    except DeviceUnreadable as error:
        if required or not _means_no_gpu(error):
            raise
        return ()
    if required and not devices:
        raise DeviceUnreadable(
            "No CUDA device was found on this machine.",
            expected="At least one, because `fleet.devices` is cuda.",
            advice="Run `nvidia-smi`, or set `fleet.devices: host`.",
        )
    return devices


def _means_no_gpu(error: DeviceUnreadable) -> bool:
    import pynvml

    absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    return getattr(error.__cause__, "value", None) in absent
