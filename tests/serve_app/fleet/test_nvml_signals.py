"""What polls of CUDA devices see, by the real module `pynvml` on scripted devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

import pynvml
import pytest

from placement.signals import DeviceSignals, Poll, ProcessBytes, RecoveryAction, Silence, ThrottleReason
from serve_app.fleet.nvml_watch import NOT_LISTED, NvmlWatch
from tests.contracts.nvml_contract import NvmlContract, PollDevices, answered
from tests.nvml_stand_in.script import FULL_VALUES, GIB, NvmlScript, ScriptedGpu

OPTIONAL = [field.name for field in fields(DeviceSignals) if field.default is None]
FULL = ScriptedGpu(
    "GPU-full", total_bytes=40 * GIB, used_bytes=9 * GIB, processes={7: 8 * GIB, 8: None}, values=FULL_VALUES
)
BARE = ScriptedGpu("GPU-bare", address="00000000:02:00.0")
THIRD = ScriptedGpu("GPU-third", address="00000000:03:00.0", values=FULL_VALUES)


class Watching:
    """A watch, and what it has known so far, as the poller keeps it."""

    def __init__(self) -> None:
        self.watch = NvmlWatch("n")
        self.known: dict[str, str | None] = {"n/gpu-0": None}

    def __call__(self) -> tuple[Poll, ...]:
        polls = self.watch.poll(self.known)
        self.known |= {poll.device: poll.uuid for poll in polls if isinstance(poll, DeviceSignals)}
        return polls


@pytest.fixture
def poll(nvml: NvmlScript) -> Iterator[PollDevices]:
    nvml.devices(FULL, BARE)
    watching = Watching()
    yield watching
    nvml.mend()
    watching.watch.close()


@pytest.fixture
def full(nvml: NvmlScript, poll: PollDevices) -> Callable[..., DeviceSignals]:
    """Reads the full device with some values changed; None takes a value away."""

    def read(**values: int | None) -> DeviceSignals:
        left = {key: number for key, number in {**FULL_VALUES, **values}.items() if number is not None}
        nvml.devices(ScriptedGpu("GPU-full", values=left))
        return answered(poll())[0]

    return read


def silences(polls: tuple[Poll, ...]) -> dict[str, str]:
    return {poll.device: poll.reason for poll in polls if isinstance(poll, Silence)}


def uuids(polls: tuple[Poll, ...]) -> dict[str, str]:
    return {poll.device: poll.uuid for poll in polls if isinstance(poll, DeviceSignals)}


class TestNvmlOnTheStandIn(NvmlContract):
    """The same laws as on a real driver (`tests/gpu`)."""


class TestSignals:
    def test_are_what_the_driver_says_in_our_units(self, poll: PollDevices) -> None:
        one = answered(poll())[0]
        assert (one.device, one.product) == ("n/gpu-0", "NVIDIA A100-SXM4-40GB")
        assert (one.total_bytes, one.used_bytes) == (40 * GIB, 9 * GIB)
        assert (one.temperature_c, one.slowdown_c, one.shutdown_c) == (61, 90, 93)
        assert (one.power_w, one.power_limit_w, one.energy_j) == (251.5, 400, 7200.5)
        assert (one.utilization, one.pcie_replays) == (0.87, 5)
        assert (one.ecc_corrected, one.ecc_uncorrected) == (3, 0)
        assert (one.ecc_corrected_lifetime, one.ecc_uncorrected_lifetime) == (41, 2)
        assert (one.row_remap_pending, one.row_remap_failed) == (False, False)
        assert (one.recovery_action, one.xids) == (RecoveryAction.NONE, ())

    def test_a_process_whose_bytes_the_driver_withholds_is_still_there(self, poll: PollDevices) -> None:
        expected = (ProcessBytes(pid=7, num_bytes=8 * GIB), ProcessBytes(pid=8, num_bytes=None))
        assert answered(poll())[0].processes == expected

    def test_what_the_device_does_not_support_is_none(self, poll: PollDevices) -> None:
        bare = answered(poll())[1]
        assert {name: getattr(bare, name) for name in OPTIONAL} == dict.fromkeys(OPTIONAL)

    @pytest.mark.parametrize("code", [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION])
    def test_nor_what_the_driver_lacks_or_the_container_may_not_ask(
        self, nvml: NvmlScript, poll: PollDevices, code: int
    ) -> None:
        nvml.fail("nvmlDeviceGetPowerUsage", code)
        assert answered(poll())[0].power_w is None

    def test_a_scripted_zero_is_not_none(self, full: Callable[..., DeviceSignals]) -> None:
        assert full(utilization_percent=0, clock_reasons=0).utilization == 0
        assert full(clock_reasons=0).throttle_reasons == frozenset()

    @pytest.mark.parametrize(
        ("mask", "reasons"),
        [
            (0x1, [ThrottleReason.IDLE]),
            (0x44, [ThrottleReason.POWER_CAP, ThrottleReason.HW_THERMAL]),
            (0xA8, [ThrottleReason.HW_SLOWDOWN, ThrottleReason.SW_THERMAL, ThrottleReason.HW_POWER_BRAKE]),
            (0x112, [ThrottleReason.OTHER]),
            (1 << 40, [ThrottleReason.OTHER]),
        ],
    )
    def test_clock_event_reasons_are_bits(
        self, full: Callable[..., DeviceSignals], mask: int, reasons: list[ThrottleReason]
    ) -> None:
        assert full(clock_reasons=mask).throttle_reasons == frozenset(reasons)

    @pytest.mark.parametrize(
        ("number", "action"),
        [(1, RecoveryAction.GPU_RESET), (4, RecoveryAction.DRAIN_AND_RESET), (7, RecoveryAction.OTHER)],
    )
    def test_the_recovery_action_is_the_drivers(
        self, full: Callable[..., DeviceSignals], number: int, action: RecoveryAction
    ) -> None:
        assert full(field_230=number).recovery_action is action

    def test_row_remapping_that_waits_or_failed_is_told(self, full: Callable[..., DeviceSignals]) -> None:
        one = full(row_remap_pending=1, row_remap_failed=1)
        assert (one.row_remap_pending, one.row_remap_failed) == (True, True)

    def test_limits_are_found_from_margins_where_the_driver_states_only_those(
        self, full: Callable[..., DeviceSignals]
    ) -> None:
        """As `nvidia-smi -q` shows an H100: 31 °C, 54 °C of margin, slow-down at −2, shut-down at −8."""
        margins = {"margin_c": 54, "field_194": -2, "field_193": -8}
        one = full(temperature_c=31, threshold_0=None, threshold_1=None, **margins)
        assert (one.slowdown_c, one.shutdown_c) == (87, 93)

    def test_links_are_counted_and_those_that_are_down_are_not_up(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.devices(ScriptedGpu("GPU-full", links={0: "0000:02:00.0", 1: None, 2: "0000:02:00.0"}))
        one = answered(poll())[0]
        assert (one.num_nvlinks_up, one.num_nvlinks) == (2, 3)


class TestXids:
    def test_come_once_with_the_device_they_name(self, nvml: NvmlScript, poll: PollDevices) -> None:
        poll()
        nvml.xid("GPU-bare", 31)
        nvml.xid("GPU-bare", 48)
        assert [one.xids for one in answered(poll())] == [(), (31, 48)]
        assert [one.xids for one in answered(poll())] == [(), ()]

    def test_of_before_the_watch_are_not_its_business(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.xid("GPU-full", 79)
        assert answered(poll())[0].xids == ()

    def test_of_a_device_that_is_lost_stand_in_the_reason(self, nvml: NvmlScript, poll: PollDevices) -> None:
        poll()
        nvml.xid("GPU-full", 79)
        nvml.devices(BARE)
        assert silences(poll()) == {"n/gpu-0": "GPU is lost (XID 79)"}

    def test_are_not_lost_when_a_neighbour_falls_silent_and_the_session_begins_anew(
        self, nvml: NvmlScript, poll: PollDevices
    ) -> None:
        poll()
        nvml.devices(FULL)
        poll()
        nvml.xid("GPU-full", 94)
        assert answered(poll())[0].xids == (94,)

    def test_where_there_are_no_events_the_rest_is_read(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.fail("nvmlEventSetCreate", pynvml.NVML_ERROR_NOT_SUPPORTED)
        assert len(answered(poll())) == 2

    def test_one_lost_device_breaks_the_events_but_makes_no_other_silent(
        self, nvml: NvmlScript, poll: PollDevices
    ) -> None:
        poll()
        nvml.fail("nvmlEventSetWait_v2", pynvml.NVML_ERROR_GPU_IS_LOST)
        assert silences(poll()) == {}


class TestADeviceThatFails:
    @pytest.mark.parametrize(
        "function",
        [
            "nvmlDeviceGetHandleByIndex_v2",
            "nvmlDeviceGetUUID",
            "nvmlDeviceGetMemoryInfo",
            "nvmlDeviceGetTemperature",
            "nvmlDeviceGetTotalEccErrors",
            "nvmlDeviceGetFieldValues",
            "nvmlDeviceGetNvLinkState",
            "nvmlDeviceGetPciInfo_v3",
        ],
    )
    @pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN])
    def test_is_silent_whatever_fails_and_the_other_is_not(
        self, nvml: NvmlScript, poll: PollDevices, function: str, code: int
    ) -> None:
        poll()
        nvml.fail(function, code, whom="GPU-full")
        polls = poll()
        assert list(silences(polls)) == ["n/gpu-0"]
        assert uuids(polls) == {"n/gpu-1": "GPU-bare"}

    def test_answers_again_when_it_does(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.fail("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_RESET_REQUIRED, whom="GPU-full")
        assert silences(poll()) == {"n/gpu-0": "GPU requires restart"}
        nvml.mend()
        assert silences(poll()) == {}


class TestADeviceThatVanishes:
    def test_is_silent_for_as_long_as_it_is_gone(self, nvml: NvmlScript, poll: PollDevices) -> None:
        poll()
        nvml.devices(BARE)
        assert silences(poll()) == {"n/gpu-0": "GPU is lost"}
        assert silences(poll()) == {"n/gpu-0": NOT_LISTED}
        assert silences(poll()) == {"n/gpu-0": NOT_LISTED}

    def test_leaves_the_others_their_names_when_indices_shift(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.devices(FULL, BARE, THIRD)
        poll()
        nvml.devices(BARE, THIRD)
        poll()
        assert uuids(poll()) == {"n/gpu-1": "GPU-bare", "n/gpu-2": "GPU-third"}

    def test_has_its_old_name_when_it_comes_back(self, nvml: NvmlScript, poll: PollDevices) -> None:
        poll()
        nvml.devices(BARE)
        poll()
        nvml.devices(BARE, FULL)
        assert uuids(poll()) == {"n/gpu-0": "GPU-full", "n/gpu-1": "GPU-bare"}

    def test_is_not_replaced_by_a_stranger(self, nvml: NvmlScript, poll: PollDevices) -> None:
        poll()
        nvml.devices(THIRD, BARE)
        poll()
        polls = poll()
        assert uuids(polls) == {"n/gpu-1": "GPU-bare", "n/gpu-2": "GPU-third"}
        assert silences(polls) == {"n/gpu-0": NOT_LISTED}


class TestADriverThatFails:
    def test_at_the_start_leaves_the_first_device_silent(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        assert silences(poll()) == {"n/gpu-0": "NVML does not answer: Driver Not Loaded"}

    @pytest.mark.parametrize("function", ["nvmlDeviceGetCount_v2", "nvmlInitWithFlags"])
    def test_later_leaves_every_device_silent_until_it_answers(
        self, nvml: NvmlScript, poll: PollDevices, function: str
    ) -> None:
        poll()
        nvml.fail("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_UNKNOWN)
        poll()
        nvml.mend()
        nvml.fail(function, pynvml.NVML_ERROR_UNKNOWN)
        assert silences(poll()) == dict.fromkeys(("n/gpu-0", "n/gpu-1"), "NVML does not answer: Unknown Error")
        nvml.mend()
        assert silences(poll()) == {}

    def test_that_lists_no_device_is_not_a_node_without_devices(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.devices()
        assert silences(poll()) == {"n/gpu-0": NOT_LISTED}

    def test_leaves_no_session_open(self, nvml: NvmlScript, poll: PollDevices) -> None:
        nvml.fail("nvmlEventSetCreate", pynvml.NVML_ERROR_UNKNOWN)
        poll()
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()
