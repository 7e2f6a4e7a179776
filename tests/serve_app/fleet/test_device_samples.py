"""What a poll saw becomes what is shown: nothing lost, nothing made up."""

from __future__ import annotations

from dataclasses import fields

from placement.inventory import Device, DeviceHealth, DeviceKind
from placement.signals import DeviceSignals, RecoveryAction, Silence, ThrottleReason
from serve_app.fleet.device_samples import device_sample
from tracing import names
from tracing.device_metrics import DeviceSample

DEVICE = Device(
    id="a/gpu-0",
    uuid="GPU-1",
    node="a",
    index=0,
    kind=DeviceKind.CUDA,
    product="NVIDIA A100",
    total_bytes=100,
    health=DeviceHealth.THROTTLED,
    cordoned=True,
)
SIGNALS = DeviceSignals(
    device="a/gpu-0",
    uuid="GPU-1",
    kind=DeviceKind.CUDA,
    product="NVIDIA A100",
    total_bytes=100,
    used_bytes=60,
    temperature_c=81.0,
    slowdown_c=89.0,
    power_w=390.0,
    power_limit_w=400.0,
    energy_j=7.0,
    utilization=0.5,
    ecc_corrected=3,
    ecc_uncorrected=1,
    throttle_reasons=frozenset({ThrottleReason.IDLE, ThrottleReason.HW_THERMAL}),
    xids=(79,),
    row_remap_pending=True,
    row_remap_failed=True,
    recovery_action=RecoveryAction.GPU_RESET,
)


def sampled(poll: DeviceSignals | Silence) -> DeviceSample:
    return device_sample(
        DEVICE, poll, planned_bytes=50, leased_bytes=5, foreign_bytes=2, driver="570", failure_risks=(("15m", 0.4),)
    )


class TestASample:
    def test_carries_every_signal_it_has_a_place_for(self) -> None:
        sample = sampled(SIGNALS)
        shared = {field.name for field in fields(DeviceSample)} & {field.name for field in fields(DeviceSignals)}
        assert len(shared) == 18
        for name in shared - {"throttle_reasons"}:
            assert getattr(sample, name) == getattr(SIGNALS, name)
        assert (sample.planned_bytes, sample.leased_bytes, sample.foreign_bytes) == (50, 5, 2)
        assert (sample.health, sample.is_cordoned, sample.is_up) == ("throttled", True, True)

    def test_idling_is_no_throttling(self) -> None:
        assert sampled(SIGNALS).throttle_reasons == frozenset({"hw_thermal"})

    def test_of_a_silence_is_down_with_what_the_inventory_knows(self) -> None:
        sample = sampled(Silence(device="a/gpu-0", reason="fell off the bus"))
        assert (sample.is_up, sample.total_bytes, sample.planned_bytes) == (False, 100, 50)
        assert sample.used_bytes is None
        assert sample.foreign_bytes is None
        assert sample.temperature_c is None


class TestWords:
    def test_of_placement_are_those_of_the_metrics(self) -> None:
        assert {state.value for state in DeviceHealth} == set(names.HEALTH_STATES)
        throttling = {reason.value for reason in ThrottleReason if reason is not ThrottleReason.IDLE}
        assert throttling == set(names.THROTTLE_REASONS)
