"""Questions that contradict themselves are turned away with a sentence that says where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from placement.demand import Demand
from placement.errors import InvalidProblem
from placement.inventory import DeviceHealth, Inventory
from placement.policy import Policy
from placement.solver import solve
from tests.placement.builders import demand, fleet, with_device, with_node

DEMANDS: dict[str, Demand] = {
    r"models\[3\] has an estimate of 0 bytes": demand("m", num_bytes=0, path="models[3]"),
    r"models\[3\] has an estimate with a negative": demand("m", num_bytes=-1, path="models[3]"),
    r"models\[3\] asks for -1 replicas": demand("m", replicas=-1, path="models[3]"),
    r"models\[3\] asks for 1 replicas on 0 devices": demand("m", tensor_parallel=0, path="models[3]"),
    r"models\[3\] has cpu_millis = -1": demand("m", cpu_millis=-1, path="models[3]"),
    r"models\[3\] has host_memory_bytes = -1073741824": demand("m", host_gib=-1, path="models[3]"),
    r"models\[3\] has max_offload_bytes = -1073741824": demand("m", offload_gib=-1, path="models[3]"),
    r"models\[3\] asks to serve -0.5 requests/s": demand("m", requests_per_s=-0.5, path="models[3]"),
    r"models\[3\] asks to serve nan requests/s": demand("m", requests_per_s=float("nan"), path="models[3]"),
    r"models\[3\] asks to serve inf requests/s": demand("m", requests_per_s=float("inf"), path="models[3]"),
    r"models\[3\] names an empty device type": demand("m", types=("H100|",), path="models[3]"),
    "demand 'm' has cpu_millis": demand("m", cpu_millis=-1),
}

Tamper = Callable[[Inventory], Inventory]

INVENTORIES: dict[str, Tamper] = {
    "device 'n/gpu-0' takes shares and has 0 bytes": lambda fleet_: _sized(fleet_, 0),
    "device 'n/gpu-0' has a negative number of bytes": lambda fleet_: _sized(fleet_, -1),
    "device 'n/gpu-1' has a negative number of bytes": lambda fleet_: with_device(fleet_, "n/gpu-1", held_bytes=-1),
    "node 'n' has num_cpus = -1": lambda fleet_: with_node(fleet_, "n", num_cpus=-1),
    "node 'n' has host_memory_bytes = -": lambda fleet_: with_node(fleet_, "n", host_gib=-1),
    "node 'n' has held_cpu_millis = -1": lambda fleet_: with_node(fleet_, "n", held_cpu_millis=-1),
    "node 'n' has held_host_memory_bytes = -": lambda fleet_: with_node(fleet_, "n", held_host_gib=-1),
    "node 'n' is given more than once": lambda fleet_: replace(fleet_, nodes=fleet_.nodes * 2),
    "device 'n/gpu-0' is given more than once": lambda fleet_: _twins(fleet_),
}


def _sized(inventory: Inventory, total_bytes: int) -> Inventory:
    node = inventory.nodes[0]
    first = replace(node.devices[0], total_bytes=total_bytes)
    return replace(inventory, nodes=(replace(node, devices=(first, *node.devices[1:])),))


def _twins(inventory: Inventory) -> Inventory:
    node = inventory.nodes[0]
    return replace(inventory, nodes=(replace(node, devices=(node.devices[0], node.devices[0])),))


class TestContradictions:
    @pytest.mark.parametrize("sentence", DEMANDS)
    def test_a_demand_that_makes_no_sense_is_named_by_its_path(self, sentence: str) -> None:
        with pytest.raises(InvalidProblem, match=sentence):
            solve(fleet("n: 2x24GiB"), [DEMANDS[sentence]], Policy())

    @pytest.mark.parametrize("sentence", INVENTORIES)
    def test_an_inventory_that_makes_no_sense_is_named_by_node_or_device(self, sentence: str) -> None:
        with pytest.raises(InvalidProblem, match=sentence):
            solve(INVENTORIES[sentence](fleet("n: 2x24GiB")), [demand("m")], Policy())

    @pytest.mark.parametrize("limit", [-1.0, float("nan")])
    def test_a_time_limit_is_a_number_of_seconds(self, limit: float) -> None:
        with pytest.raises(InvalidProblem, match="time_limit_s"):
            solve(fleet("n: 2x24GiB"), [demand("m")], Policy(time_limit_s=limit))

    def test_a_lost_device_of_unknown_size_is_no_contradiction(self) -> None:
        lost = with_device(_sized(fleet("n: 2x24GiB"), 0), "n/gpu-0", health=DeviceHealth.LOST)
        assert len(solve(lost, [demand("m")], Policy()).placements) == 1
