"""What there is: a frozen, versioned snapshot of nodes, devices and what already lies on them.

Knows nothing of Ray, of NVML or of time: the shell reads those and builds this value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeviceKind(StrEnum):
    CUDA = "cuda"
    HOST = "host"
    SIMULATED = "simulated"


class DeviceHealth(StrEnum):
    """States of `headroom_device_health_state`; only HEALTHY, DEGRADED and THROTTLED take new shares."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    THROTTLED = "throttled"
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    PROBATION = "probation"
    LOST = "lost"


class HoldingKind(StrEnum):
    FOREIGN = "foreign"
    """A process on the device that is not ours."""
    LEASED = "leased"
    JOB = "job"
    """A training job, or another guest beside the plan that leaves by itself."""
    RESERVED = "reserved"
    """Set aside by an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Bytes on a device that the solver must plan around and never moves."""

    holder: str
    kind: HoldingKind
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or the memory of one host.

    `id` is `<node>/gpu-<index>` or `<node>/host`; `uuid` is NVML's, or the id for other kinds.
    `total_bytes` is what the driver (or the host) reports as the whole.
    """

    id: str
    uuid: str
    node: str
    index: int
    kind: DeviceKind
    product: str
    total_bytes: int
    health: DeviceHealth = DeviceHealth.HEALTHY
    cordoned: bool = False
    risk_permille: int = 0
    """How likely it is to fail soon, in thousandths; 0 where nothing is foretold."""
    numa_node: int | None = None
    nvlink_peers: tuple[str, ...] = ()
    """Ids of the devices reached over NVLink."""
    holdings: tuple[Holding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    num_cpus: int
    host_memory_bytes: int
    devices: tuple[Device, ...]
    roles: frozenset[str] = frozenset({"inference", "training"})
    """What may run there; the shell reads it from labels, and closes devices to the rest."""
    held_cpu_millis: int = 0
    """Thousandths of a core that others use; the solver leaves them alone."""
    held_host_memory_bytes: int = 0
    """Host memory that others use. On a node whose device is its memory, the device's holdings say it instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    version: int
    nodes: tuple[Node, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(device for node in self.nodes for device in node.devices)
