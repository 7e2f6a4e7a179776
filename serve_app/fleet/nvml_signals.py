"""One CUDA device as one poll sees it. Knows nothing of sessions, of other devices or of polls before.

What the device or its driver does not offer is None. Every other error of NVML goes on to the caller.
Source: nvml.h of CUDA 13 for units and fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, RecoveryAction, ThrottleReason
from serve_app.fleet.nvml import numa_node, nvlink_states, offered, running_processes


def read_signals(nvml: Any, handle: Any, *, device: str, uuid: str, xids: tuple[int, ...] = ()) -> DeviceSignals:
    """`nvml` is the module `pynvml` inside a session, `device` the id it has in the inventory.

    Raises: `nvml.NVMLError` when the device is lost or fails, or does not even tell its memory.
    """
    reader = _Reader(nvml, handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    links = nvlink_states(nvml, handle)
    remapped = reader.number("nvmlDeviceGetRemappedRows")
    utilization = reader.number("nvmlDeviceGetUtilizationRates")
    temperature = reader.number("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    return DeviceSignals(
        device=device,
        uuid=uuid,
        kind=DeviceKind.CUDA,
        product=str(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        processes=running_processes(nvml, handle),
        temperature_c=temperature,
        slowdown_c=reader.limit_c(
            temperature, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, nvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT
        ),
        shutdown_c=reader.limit_c(
            temperature, nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN, nvml.NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT
        ),
        power_w=_thousandths(reader.number("nvmlDeviceGetPowerUsage")),
        power_limit_w=_thousandths(reader.number("nvmlDeviceGetEnforcedPowerLimit")),
        energy_j=_thousandths(reader.number("nvmlDeviceGetTotalEnergyConsumption")),
        utilization=None if utilization is None else utilization.gpu / 100,
        ecc_corrected=reader.ecc(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_VOLATILE_ECC),
        ecc_uncorrected=reader.ecc(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        ecc_corrected_lifetime=reader.ecc(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_AGGREGATE_ECC),
        ecc_uncorrected_lifetime=reader.ecc(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_AGGREGATE_ECC),
        throttle_reasons=_reasons(nvml, reader.number("nvmlDeviceGetCurrentClocksEventReasons")),
        xids=xids,
        row_remap_pending=None if remapped is None else bool(remapped[2]),
        row_remap_failed=None if remapped is None else bool(remapped[3]),
        num_nvlinks_up=sum(links.values()) if links else None,
        num_nvlinks=len(links) or None,
        pcie_replays=reader.number("nvmlDeviceGetPcieReplayCounter"),
        recovery_action=_action(reader.field(nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)),
        numa_node=numa_node(nvml, handle),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Asks one device; None for what it does not offer."""

    nvml: Any
    handle: Any

    def number(self, function: str, *arguments: Any) -> Any:
        return offered(self.nvml, partial(getattr(self.nvml, function), self.handle, *arguments))

    def ecc(self, error_type: int, counter: int) -> int | None:
        count = self.number("nvmlDeviceGetTotalEccErrors", error_type, counter)
        return None if count is None else int(count)

    def field(self, field_id: int) -> int | None:
        """A whole number of 32 bits. A driver older than the field calls it an invalid argument."""
        (found,) = self.nvml.nvmlDeviceGetFieldValues(self.handle, [field_id])
        if found.nvmlReturn == self.nvml.NVML_ERROR_INVALID_ARGUMENT:
            return None
        return offered(self.nvml, partial(self._checked, found))

    def _checked(self, found: Any) -> int:
        if found.nvmlReturn != self.nvml.NVML_SUCCESS:
            raise self.nvml.NVMLError(found.nvmlReturn)
        return int(found.value.siVal)

    def limit_c(self, temperature: float | None, threshold: int, margin_field: int) -> float | None:
        """A limit in °C: as such, or on newer devices from how far away it is.

        Since Ada the driver states distances: the margin left to the highest operating temperature, and each limit as
        a margin of its own, below zero when it lies above that temperature.
        """
        limit: int | None = self.number("nvmlDeviceGetTemperatureThreshold", threshold)
        if limit is not None or temperature is None:
            return limit
        margin, limit_margin = self.number("nvmlDeviceGetMarginTemperature"), self.field(margin_field)
        return None if margin is None or limit_margin is None else temperature + margin - limit_margin


def _reasons(nvml: Any, mask: int | None) -> frozenset[ThrottleReason] | None:
    """Bits without a name of their own here, and those newer than nvml.h of CUDA 13, are OTHER."""
    if mask is None:
        return None
    named = {
        nvml.nvmlClocksEventReasonGpuIdle: ThrottleReason.IDLE,
        nvml.nvmlClocksEventReasonSwPowerCap: ThrottleReason.POWER_CAP,
        nvml.nvmlClocksEventReasonHwSlowdown: ThrottleReason.HW_SLOWDOWN,
        nvml.nvmlClocksEventReasonHwThermalSlowdown: ThrottleReason.HW_THERMAL,
        nvml.nvmlClocksEventReasonSwThermalSlowdown: ThrottleReason.SW_THERMAL,
        nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: ThrottleReason.HW_POWER_BRAKE,
    }
    bits = (1 << number for number in range(mask.bit_length()))
    return frozenset(named.get(bit, ThrottleReason.OTHER) for bit in bits if mask & bit)


def _action(number: int | None) -> RecoveryAction | None:
    if number is None:
        return None
    return RecoveryAction(min(number, RecoveryAction.OTHER))


def _thousandths(number: int | None) -> float | None:
    return None if number is None else number / 1000
