"""The host's memory as a polled device."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from placement.inventory import DeviceKind
from serve_app.fleet.devices import host_device
from serve_app.fleet.host_memory import HostMemory
from serve_app.fleet.host_signals import HostWatch, host_signals, hottest_processor

GIB = 2**30
byte_counts = st.integers(min_value=0, max_value=2**45)


@dataclass(frozen=True)
class Reading:
    current: float
    critical: float | None


class TestHostSignals:
    @given(byte_counts, byte_counts, st.none() | st.integers(min_value=1, max_value=2**45))
    def test_name_size_and_use_are_those_of_the_inventory(self, total: int, available: int, part: int | None) -> None:
        """Fails when the part we plan with is left out of either."""
        memory = HostMemory(total_bytes=max(total, available), available_bytes=available)
        signals, device = host_signals(memory, "n", total_bytes=part), host_device(memory, "n", total_bytes=part)
        assert (signals.device, signals.uuid, signals.product) == (device.id, device.uuid, device.product)
        assert signals.total_bytes == device.total_bytes
        assert signals.used_bytes == sum(held.num_bytes for held in device.holdings)


class TestTheHottestProcessor:
    def test_is_the_sensor_nearest_to_its_limit(self) -> None:
        sensors = {"coretemp": [Reading(70, 100), Reading(65, 80)]}
        assert hottest_processor(sensors) == Reading(65, 80)

    def test_is_none_where_no_processor_states_its_limit(self) -> None:
        assert hottest_processor({"coretemp": [Reading(70, None), Reading(70, 0)]}) is None
        assert hottest_processor({"nvme": [Reading(60, 85)], "acpitz": [Reading(40, 120)]}) is None
        assert hottest_processor({}) is None


class TestHostWatch:
    def test_reads_this_machine(self) -> None:
        (signals,) = HostWatch("n").poll()
        assert (signals.device, signals.kind) == ("n/host", DeviceKind.HOST)
        assert 0 < signals.used_bytes < signals.total_bytes

    def test_knows_how_busy_processors_are_from_the_second_poll_on(self) -> None:
        watch = HostWatch("n")
        (first,), (second,) = watch.poll(), watch.poll()
        assert first.utilization is None
        assert second.utilization is not None
        assert 0 <= second.utilization <= 1

    def test_polls_the_part_we_plan_with(self) -> None:
        (signals,) = HostWatch("n", total_bytes=GIB).poll()
        assert signals.total_bytes == GIB
        assert signals.used_bytes <= GIB
