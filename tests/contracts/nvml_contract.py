"""The laws of a poll of CUDA devices by NVML, for the stand-in and for a real driver.

A subclass has a fixture `poll`, which polls the same devices each time; at least one must answer.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Poll

PollDevices = Callable[[], tuple[Poll, ...]]


def answered(polls: tuple[Poll, ...]) -> list[DeviceSignals]:
    signals = [poll for poll in polls if isinstance(poll, DeviceSignals)]
    assert signals, f"no device answered: {polls}"
    return signals


class NvmlContract:
    @pytest.fixture
    def signals(self, poll: PollDevices) -> list[DeviceSignals]:
        return answered(poll())

    def test_every_device_has_an_id_and_a_uuid_of_its_own(self, signals: list[DeviceSignals]) -> None:
        assert len({one.device for one in signals}) == len({one.uuid for one in signals}) == len(signals)
        assert all(one.uuid.startswith("GPU-") and one.kind is DeviceKind.CUDA for one in signals)

    def test_devices_keep_ids_uuids_and_size_from_poll_to_poll(self, poll: PollDevices) -> None:
        first, second = ([(one.device, one.uuid, one.total_bytes) for one in answered(poll())] for _ in range(2))
        assert first == second

    def test_what_is_used_is_part_of_what_there_is(self, signals: list[DeviceSignals]) -> None:
        assert all(one.total_bytes > 0 and 0 <= one.used_bytes <= one.total_bytes for one in signals)

    def test_a_process_holds_no_more_than_the_device_has(self, signals: list[DeviceSignals]) -> None:
        for one in signals:
            assert all(process.pid > 0 for process in one.processes)
            assert all(0 <= (process.num_bytes or 0) <= one.total_bytes for process in one.processes)

    def test_temperatures_are_those_of_a_machine_and_slow_down_comes_before_shut_down(
        self, signals: list[DeviceSignals]
    ) -> None:
        for one in signals:
            assert one.temperature_c is None or -40 < one.temperature_c < 130
            assert one.slowdown_c is None or 50 < one.slowdown_c < 130
            assert one.slowdown_c is None or one.shutdown_c is None or one.slowdown_c <= one.shutdown_c

    def test_power_is_in_watts(self, signals: list[DeviceSignals]) -> None:
        for one in signals:
            assert one.power_w is None or 0 <= one.power_w < 3000
            assert one.power_limit_w is None or 10 < one.power_limit_w < 3000

    def test_utilization_is_a_fraction(self, signals: list[DeviceSignals]) -> None:
        assert all(one.utilization is None or 0 <= one.utilization <= 1 for one in signals)

    def test_counters_never_fall(self, poll: PollDevices) -> None:
        names = ("energy_j", "ecc_corrected_lifetime", "ecc_uncorrected_lifetime", "pcie_replays")
        first, second = ([[getattr(one, name) or 0 for name in names] for one in answered(poll())] for _ in range(2))
        for before, after in zip(first, second, strict=True):
            assert all(old <= new for old, new in zip(before, after, strict=True))

    def test_no_more_links_are_up_than_there_are(self, signals: list[DeviceSignals]) -> None:
        for one in signals:
            assert (one.num_nvlinks is None) == (one.num_nvlinks_up is None)
            assert 0 <= (one.num_nvlinks_up or 0) <= (one.num_nvlinks or 0)

    def test_the_product_has_a_name(self, signals: list[DeviceSignals]) -> None:
        assert all(one.product for one in signals)
