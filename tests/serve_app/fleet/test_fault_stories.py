"""Generated telemetry: the same seed the same fleet, every fault with its mark."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest

from serve_app.fleet.fault_stories import (
    DAY_S,
    LIMIT_W,
    SLOWDOWN_C,
    Fault,
    generated_device,
    generated_fleet,
    recorded,
)


def fleet(seed: int = 0, num_devices: int = 10) -> list[dict[str, list[Any]]]:
    return list(generated_fleet(num_devices=num_devices, days=1, step_s=300, seed=seed))


def failed(fault: Fault, *, seed: int = 0) -> dict[str, list[Any]]:
    """The first device of this fault, from the seed on, that fails within a week."""
    for number in range(seed, seed + 50):
        found = recorded("g", generated_device(Random(number), fault, 7 * DAY_S), 7 * DAY_S, 60)
        if found["failed"][0] is not None:
            return found
    raise AssertionError(f"no device of 50 failed by {fault}")


class TestGeneratedFleet:
    def test_is_the_same_for_the_same_seed_alone(self) -> None:
        assert fleet(1) == fleet(1)
        assert fleet(1) != fleet(2)

    def test_names_its_devices_as_generated_and_labels_each_story(self) -> None:
        found = fleet()
        assert all(device["device"][0].startswith("generated/") for device in found)
        stories = sorted(device["story"][0] for device in found)
        assert {story for story in stories if not story.startswith("healthy_")} <= {fault.value for fault in Fault}
        assert sum(not story.startswith("healthy_") for story in stories) == 4

    def test_goes_on_until_the_failure_and_never_back(self) -> None:
        for device in fleet():
            assert all(earlier < later for earlier, later in pairwise(device["time_s"]))
            assert device["failed"][0] is None or device["time_s"][-1] <= device["failed"][0]

    def test_healthy_devices_never_fail(self) -> None:
        assert all(d["failed"][0] is None for d in fleet() if d["story"][0].startswith("healthy_"))


class TestFault:
    @pytest.mark.parametrize("fault", [Fault.THERMAL_CREEP, Fault.FAN_FAILURE])
    def test_of_cooling_ends_near_the_slow_down_limit(self, fault: Fault) -> None:
        read = [value for value in failed(fault)["temperature_c"] if value is not None]
        assert max(read[-5:]) >= SLOWDOWN_C - 2
        assert max(read[:100]) < SLOWDOWN_C

    def test_of_power_ends_above_the_power_limit(self) -> None:
        assert max(value for value in failed(Fault.POWER_CREEP)["power_w"] if value is not None) > LIMIT_W * 1.05

    def test_of_memory_counts_errors_first(self) -> None:
        assert max(value or 0 for value in failed(Fault.ECC_STORM)["ecc_corrected"]) > 3

    def test_off_the_bus_leaves_temperature_and_power_as_they_were(self) -> None:
        assert max(value or 0 for value in failed(Fault.OFF_THE_BUS)["temperature_c"]) < SLOWDOWN_C
