"""Models by their size alone: what a file of demands may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from placement.demand import Demand, PartName
from serve_app.config.demands_file import load_demands
from serve_app.config.problems import ConfigError, Problem

GB = 10**9


def written(directory: Path, *models: dict[str, Any]) -> Path:
    path = directory / "demands.yaml"
    path.write_text(yaml.safe_dump({"models": list(models)}, sort_keys=False))
    return path


def demand(directory: Path, **keys: Any) -> Demand:
    (only,) = load_demands(written(directory, {"id": "m", "memory": "16GB"} | keys))
    return only


def problems(directory: Path, *models: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_demands(written(directory, *models))
    return caught.value.problems


class TestADemand:
    def test_the_shortest_one_is_a_name_and_a_size(self, tmp_path: Path) -> None:
        one = demand(tmp_path)
        assert (one.model, one.num_replicas, one.priority, one.tensor_parallel) == ("m", 1, 10, 1)
        assert (one.estimate.rest_bytes, one.estimate.peak_bytes) == (16 * GB, 16 * GB)
        assert one.estimate.parts[0].source == "fixed in demands.yaml"

    def test_memory_is_divided_among_the_devices_and_rounded_up(self, tmp_path: Path) -> None:
        assert demand(tmp_path, memory=2**20 + 1, tensor_parallel=2).estimate.rest_bytes == 2**19 + 1

    def test_a_start_takes_more(self, tmp_path: Path) -> None:
        one = demand(tmp_path, start="2GB")
        assert (one.estimate.peak_bytes, one.estimate.part_bytes(PartName.LOADING)) == (18 * GB, 2 * GB)

    def test_everything_else_a_demand_may_ask_for_is_taken(self, tmp_path: Path) -> None:
        one = demand(
            tmp_path,
            replicas=3,
            priority=7,
            device_types=["H100", "A100"],
            cpus=1.5,
            host_memory="8GB",
            requests_per_s=2.5,
            max_offload="4GB",
        )
        assert (one.num_replicas, one.priority, one.device_types) == (3, 7, ("H100", "A100"))
        assert (one.cpu_millis, one.host_memory_bytes, one.requests_per_s) == (1500, 8 * GB, 2.5)
        assert (one.max_offload_bytes, one.path) == (4 * GB, "models[0]")


class TestAProblem:
    @pytest.mark.parametrize(
        ("keys", "path"),
        [
            ({"memory": "0GB"}, "models[0].memory"),
            ({"memory": -1}, "models[0].memory"),
            ({"memory": "lots"}, "models[0].memory"),
            ({"vram": "16GB"}, "models[0].vram"),
            ({"replicas": -1}, "models[0].replicas"),
            ({"priority": 1001}, "models[0].priority"),
            ({"tensor_parallel": 0}, "models[0].tensor_parallel"),
            ({"device_types": ["H100|"]}, "models[0].device_types[0]"),
            ({"device_types": [" "]}, "models[0].device_types[0]"),
            ({"cpus": float("inf")}, "models[0].cpus"),
            ({"max_offload": "-1GB"}, "models[0].max_offload"),
            ({"id": "a b"}, "models[0].id"),
        ],
    )
    def test_is_one_of_its_key_with_a_line(self, tmp_path: Path, keys: dict[str, Any], path: str) -> None:
        (found,) = problems(tmp_path, {"id": "m", "memory": "16GB"} | keys)
        assert (found.path, found.line is not None) == (path, True)

    def test_two_models_never_share_an_id(self, tmp_path: Path) -> None:
        (found,) = problems(tmp_path, {"id": "m", "memory": "1GB"}, {"id": "m", "memory": "2GB"})
        assert (found.path, found.advice) == ("models[1].id", "Raise `replicas` for a second engine.")

    def test_ten_thousand_models_are_one_clear_problem(self, tmp_path: Path) -> None:
        (found,) = problems(tmp_path, *({"id": f"m{number}", "memory": 2**30} for number in range(10_000)))
        assert (found.what, found.expected) == ("has 10,000 entries", "a list with at least one entry, at most 1,000")
