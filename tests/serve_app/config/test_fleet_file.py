"""A fleet as a file says it, and what is answered when it says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from placement.inventory import DeviceHealth, DeviceKind, Inventory
from serve_app.config.fleet_file import load_fleet
from serve_app.config.problems import ConfigError, Problem

GIB = 2**30


def written(directory: Path, data: object) -> Path:
    path = directory / "fleet.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
    return path


def loaded(directory: Path, *nodes: dict[str, Any]) -> Inventory:
    return load_fleet(written(directory, {"nodes": list(nodes)}))


def problem(directory: Path, data: object) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load_fleet(written(directory, data))
    assert caught.value.exit_code == 2
    (only,) = caught.value.problems
    return only


def of_device(**keys: Any) -> dict[str, Any]:
    return {"nodes": [{"name": "n", "devices": [{"memory": "24GiB"} | keys]}]}


class TestAFleet:
    def test_the_shortest_one_is_a_node_with_a_device(self, tmp_path: Path) -> None:
        (device,) = loaded(tmp_path, {"name": "n", "devices": [{"memory": "24GB"}]}).devices
        assert (device.id, device.total_bytes, device.kind, device.health) == (
            "n/gpu-0",
            24 * 10**9,
            DeviceKind.CUDA,
            DeviceHealth.HEALTHY,
        )

    def test_counts_stand_for_many_alike_numbered_through(self, tmp_path: Path) -> None:
        entries = [{"count": 2, "memory": "80GiB", "numa": 0}, {"count": 2, "memory": "80GiB", "numa": 1}]
        inventory = loaded(tmp_path, {"name": "node", "count": 2, "devices": entries})
        assert [node.name for node in inventory.nodes] == ["node-0", "node-1"]
        assert [(d.id, d.numa_node) for d in inventory.nodes[1].devices] == [
            ("node-1/gpu-0", 0),
            ("node-1/gpu-1", 0),
            ("node-1/gpu-2", 1),
            ("node-1/gpu-3", 1),
        ]

    def test_nvlink_joins_the_devices_of_one_entry_and_no_others(self, tmp_path: Path) -> None:
        entries = [{"count": 2, "memory": "80GiB", "nvlink": True}, {"memory": "80GiB"}]
        devices = loaded(tmp_path, {"name": "n", "devices": entries}).devices
        assert [device.nvlink_peers for device in devices] == [("n/gpu-1",), ("n/gpu-0",), ()]

    def test_product_health_cordon_and_bytes_of_others_are_taken(self, tmp_path: Path) -> None:
        keys = {"product": "NVIDIA L4", "health": "quarantined", "cordoned": True, "foreign": "2GiB"}
        (device,) = load_fleet(written(tmp_path, of_device(**keys))).devices
        assert (device.product, device.health, device.cordoned) == ("NVIDIA L4", DeviceHealth.QUARANTINED, True)
        assert [holding.num_bytes for holding in device.holdings] == [2 * GIB]

    def test_risk_is_a_fraction_there_and_thousandths_here(self, tmp_path: Path) -> None:
        (device,) = load_fleet(written(tmp_path, of_device(risk=0.35))).devices
        assert device.risk_permille == 350

    def test_a_node_without_devices_serves_from_its_memory(self, tmp_path: Path) -> None:
        (device,) = loaded(tmp_path, {"name": "n", "memory": "64GiB", "foreign": "4GiB", "cpus": 8}).devices
        assert (device.id, device.kind, device.total_bytes) == ("n/host", DeviceKind.HOST, 64 * GIB)
        assert [holding.num_bytes for holding in device.holdings] == [4 * GIB]

    def test_a_node_has_cores_and_memory_beside_its_devices(self, tmp_path: Path) -> None:
        node = {"name": "n", "cpus": 8, "memory": "64GiB", "foreign": "4GiB", "devices": [{"memory": "24GiB"}]}
        (read,) = loaded(tmp_path, node).nodes
        assert (read.num_cpus, read.host_memory_bytes, read.held_host_memory_bytes) == (8, 64 * GIB, 4 * GIB)


class TestAProblem:
    def test_names_line_path_value_and_what_is_taken(self, tmp_path: Path) -> None:
        found = problem(tmp_path, of_device(memory="0GB"))
        assert str(found) == (
            "line 4: nodes[0].devices[0].memory is '0GB'; expected a size from 1MiB to 1024TiB, "
            "such as 512MiB or 2GiB, or a whole number of bytes."
        )

    @pytest.mark.parametrize(
        "keys",
        [
            {"memory": -1},
            {"memory": "80"},
            {"memory": "-80GiB"},
            {"memory": None},
            {"count": 0},
            {"count": 10**9},
            {"count": 1.5},
            {"health": "fine"},
            {"numa": -1},
            {"foreign": "-1GiB"},
            {"risk": 1.1},
            {"risk": -0.1},
            {"nvlink": "yes"},
            {"product": ""},
        ],
    )
    def test_wrong_values_are_problems_of_their_key(self, tmp_path: Path, keys: dict[str, Any]) -> None:
        assert problem(tmp_path, of_device(**keys)).path == f"nodes[0].devices[0].{next(iter(keys))}"

    def test_an_unknown_key_names_the_nearest_valid_one(self, tmp_path: Path) -> None:
        assert problem(tmp_path, of_device(memroy="1GiB")).advice == "Did you mean 'memory'?"

    def test_two_nodes_never_have_one_name(self, tmp_path: Path) -> None:
        node = {"name": "n", "count": 2, "memory": "1GiB"}
        found = problem(tmp_path, {"nodes": [node, {"name": "n-1", "memory": "1GiB"}]})
        assert (found.path, found.what) == ("nodes[1].name", "gives a node 'n-1'")

    def test_devices_are_on_all_nodes_or_on_none(self, tmp_path: Path) -> None:
        nodes = [{"name": "a", "devices": [{"memory": "1GiB"}]}, {"name": "b", "memory": "1GiB"}]
        assert problem(tmp_path, {"nodes": nodes}).path == "nodes[1].devices"

    def test_a_node_has_something_to_serve_from(self, tmp_path: Path) -> None:
        assert "neither devices nor memory" in problem(tmp_path, {"nodes": [{"name": "a"}]}).what

    def test_more_devices_than_can_be_planned_are_a_problem_at_once(self, tmp_path: Path) -> None:
        node = {"name": "n", "count": 4096, "devices": [{"count": 1024, "memory": "1GiB"}]}
        assert problem(tmp_path, {"nodes": [node]}).what == "have 4,194,304 devices"

    @pytest.mark.parametrize("data", ["", "[]", "3", "nodes:", "nodes: []", "nodes: {}", "a: [", "\0"])
    def test_other_kinds_of_file_are_one_problem(self, tmp_path: Path, data: str) -> None:
        assert str(problem(tmp_path, data))

    def test_a_file_that_is_not_there_says_what_was_expected(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="expected a fleet file at this path"):
            load_fleet(tmp_path / "none.yaml")
