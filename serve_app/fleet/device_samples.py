"""From what a poll saw, and what is planned, to the sample that device metrics are made of. Pure."""

from __future__ import annotations

from dataclasses import replace

from placement.inventory import Device
from placement.signals import DeviceSignals, Poll, Silence, ThrottleReason
from tracing.device_metrics import DeviceSample


def device_sample(
    device: Device,
    poll: Poll,
    *,
    planned_bytes: int,
    leased_bytes: int,
    foreign_bytes: int | None,
    driver: str = "",
    failure_risks: tuple[tuple[str, float], ...] = (),
) -> DeviceSample:
    """The device as the inventory has it with its health, joined with its poll. A `Silence` is a device not up.

    `foreign_bytes` is None where it is not known which processes are ours.
    """
    known = DeviceSample(
        node=device.node,
        device=device.id,
        uuid=device.uuid,
        is_up=False,
        health=device.health.value,
        is_cordoned=device.cordoned,
        product=device.product,
        driver=driver,
        total_bytes=device.total_bytes,
        planned_bytes=planned_bytes,
        leased_bytes=leased_bytes,
        failure_risks=failure_risks,
    )
    return known if isinstance(poll, Silence) else _with_signals(known, poll, foreign_bytes)


def _with_signals(known: DeviceSample, seen: DeviceSignals, foreign_bytes: int | None) -> DeviceSample:
    return replace(
        known,
        is_up=True,
        used_bytes=seen.used_bytes,
        foreign_bytes=foreign_bytes,
        temperature_c=seen.temperature_c,
        slowdown_c=seen.slowdown_c,
        power_w=seen.power_w,
        power_limit_w=seen.power_limit_w,
        utilization=seen.utilization,
        energy_j=seen.energy_j,
        ecc_corrected=seen.ecc_corrected,
        ecc_uncorrected=seen.ecc_uncorrected,
        throttle_reasons=_throttles(seen),
        xids=seen.xids,
        row_remap_pending=seen.row_remap_pending,
        row_remap_failed=seen.row_remap_failed,
        recovery_action=seen.recovery_action,
    )


def _throttles(seen: DeviceSignals) -> frozenset[str] | None:
    """Reasons by name, without idling, which is none."""
    if seen.throttle_reasons is None:
        return None
    return frozenset(reason.value for reason in seen.throttle_reasons if reason is not ThrottleReason.IDLE)
