"""What one poll of one device saw. Pure values: who reads them, and what follows from them, stands elsewhere.

A signal that the device or its driver does not offer is None, which is never the same as a good value. A device that
could not be read at all is a `Silence`, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from placement.inventory import DeviceKind


class ThrottleReason(StrEnum):
    """Why clocks are held down. Source: NVML `nvmlClocksEventReasons`, constants of nvml.h."""

    IDLE = "idle"
    POWER_CAP = "power_cap"
    """At its enforced limit: how a busy device works, no fault."""
    HW_SLOWDOWN = "hw_slowdown"
    HW_THERMAL = "hw_thermal"
    SW_THERMAL = "sw_thermal"
    HW_POWER_BRAKE = "hw_power_brake"
    OTHER = "other"
    """Settings of clocks, synchronised boost, display."""

    @property
    def is_fault(self) -> bool:
        return self in (self.HW_SLOWDOWN, self.HW_THERMAL, self.SW_THERMAL, self.HW_POWER_BRAKE)


class RecoveryAction(IntEnum):
    """What the driver itself advises. Source: NVML field 230, `nvmlDeviceGpuRecoveryAction_t`."""

    NONE = 0
    GPU_RESET = 1
    NODE_REBOOT = 2
    DRAIN_P2P = 3
    DRAIN_AND_RESET = 4
    OTHER = 5
    """A value newer than this list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessBytes:
    """One process on the device. `num_bytes` is None where the driver withholds the figure."""

    pid: int
    num_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSignals:
    """One device as one poll saw it. Volatile counters restart with the driver, aggregate ones never do."""

    device: str
    """Its id in the inventory, `<node>/gpu-<index>` or `<node>/host`."""
    uuid: str
    kind: DeviceKind
    product: str
    total_bytes: int
    used_bytes: int
    processes: tuple[ProcessBytes, ...] = ()
    temperature_c: float | None = None
    slowdown_c: float | None = None
    """Temperature at which the hardware slows itself down."""
    shutdown_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    """The enforced limit."""
    energy_j: float | None = None
    """Since the driver was loaded."""
    utilization: float | None = None
    """Fraction of the last sample period in which something ran, 0 to 1."""
    ecc_corrected: int | None = None
    """Volatile."""
    ecc_uncorrected: int | None = None
    """Volatile."""
    ecc_corrected_lifetime: int | None = None
    ecc_uncorrected_lifetime: int | None = None
    throttle_reasons: frozenset[ThrottleReason] | None = None
    xids: tuple[int, ...] = ()
    """XID events since the poll before."""
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    num_nvlinks_up: int | None = None
    num_nvlinks: int | None = None
    """Links that exist here; fewer up than exist means one is down."""
    pcie_replays: int | None = None
    recovery_action: RecoveryAction | None = None
    numa_node: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A device that could not be read: unhealthy, never "unknown, so fine"."""

    device: str
    reason: str


Poll = DeviceSignals | Silence
