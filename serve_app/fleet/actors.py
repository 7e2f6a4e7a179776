"""The two kinds of actor inside a device's bundle: its warden, and the shares.

The warden holds the headroom in Ray's own books, says which physical device the bundle got, measures, and
ends what a dead replica left behind. A share holds the planned fraction for one replica and dies with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass

from placement.inventory import DeviceKind
from placement.signals import Poll
from serve_app.fleet.host_memory import read_host_memory
from serve_app.fleet.node_watch import NodePoller, Polling
from serve_app.fleet.probe import ProbeResult, probe
from serve_app.fleet.process_memory import (
    JOB_MARK,
    LEASE_MARK,
    ProcessKey,
    end_processes,
    marked_processes,
    proportional_set_bytes,
    share_processes,
)

_REAP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareProcesses:
    """Where to look for one share's processes: the replica's process, and the mark its children carry."""

    process: ProcessKey
    marker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """What one device really holds now. `shares` maps a share's marker to its measured bytes."""

    uuid: str
    total_bytes: int
    used_bytes: int
    shares: Mapping[str, int]


class DeviceWarden:
    """Sits in one device's bundle for as long as the fleet group lives.

    `total_bytes` is the device as planned: of a host's memory it may be a part.
    """

    def __init__(self, kind: DeviceKind, total_bytes: int) -> None:
        self._kind = kind
        self._total_bytes = total_bytes
        self._poller = NodePoller()

    def uuid(self) -> str:
        """UUID of the CUDA device Ray gave this bundle, or an empty string on host memory."""
        return _visible_cuda_uuid() if self._kind is DeviceKind.CUDA else ""

    def read(self, shares: Mapping[str, ShareProcesses]) -> DeviceReading:
        """Measure the device, each named share on it, and whatever runs inside a lease or a job."""
        marked = marked_processes()
        processes = {marker: share_processes(share.process, share.marker, marked) for marker, share in shares.items()}
        processes |= {
            marker: tuple(keys) for marker, keys in marked.items() if marker.startswith((LEASE_MARK, JOB_MARK))
        }
        return self._read_cuda(processes) if self._kind is DeviceKind.CUDA else self._read_host(processes)

    def poll(self, polling: Polling, timeout_s: float) -> tuple[Poll, ...]:
        """As the node's watch does, for as long as that one is away."""
        return self._poller.poll(polling, timeout_s)

    def probe(self, uuid: str, timeout_s: float) -> ProbeResult:
        return probe(self._kind, uuid, timeout_s=timeout_s)

    def reap(self, share: ShareProcesses) -> tuple[ProcessKey, ...]:
        """End everything of a share whose replica died; returns the processes that would not go."""
        keys = [key for key in share_processes(share.process, share.marker) if key.pid != os.getpid()]
        return end_processes(keys, timeout_s=_REAP_TIMEOUT_S)

    def _read_cuda(self, processes: Mapping[str, tuple[ProcessKey, ...]]) -> DeviceReading:
        from serve_app.fleet.nvml import read_device_memory

        uuid = _visible_cuda_uuid()
        memory = read_device_memory(uuid)
        shares = {
            marker: sum(memory.bytes_by_pid.get(key.pid, 0) for key in keys) for marker, keys in processes.items()
        }
        return DeviceReading(uuid=uuid, total_bytes=memory.total_bytes, used_bytes=memory.used_bytes, shares=shares)

    def _read_host(self, processes: Mapping[str, tuple[ProcessKey, ...]]) -> DeviceReading:
        """What others hold beside us counts as far as the machine could not give our part without it."""
        shares = {marker: proportional_set_bytes(keys) for marker, keys in processes.items()}
        missing = self._total_bytes - read_host_memory().available_bytes
        return DeviceReading(
            uuid="", total_bytes=self._total_bytes, used_bytes=max(sum(shares.values()), missing), shares=shares
        )


class Share:
    """Holds planned bytes of one device for one replica. `held` returns only when the share ends."""

    async def held(self) -> None:
        await asyncio.Event().wait()

    async def ping(self) -> int:
        return os.getpid()


def _visible_cuda_uuid() -> str:
    from serve_app.fleet.nvml import uuid_of_visible_device

    return uuid_of_visible_device(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
