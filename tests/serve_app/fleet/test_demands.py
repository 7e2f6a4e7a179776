"""What a model asks for, from its files and its entry in cluster.yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from placement.demand import PartName
from placement.inventory import DeviceKind
from serve_app.config.load import load_cluster
from serve_app.config.problems import ConfigError
from serve_app.config.settings import ModelSettings, Settings
from serve_app.errors import CheckpointRefused, ModelUnsupported
from serve_app.fleet.demands import demand_of
from serve_app.fleet.wanted import wanted
from tests.serve_app.config.cluster_text import changed_args, written
from tests.serve_app.fleet.checkpoint_files import LLAMA, checkpoint, write_shard


def settings(directory: Path, **model: object) -> tuple[ModelSettings, Settings]:
    entry = {"id": "mini", "source": "default:mini", **model}
    found = load_cluster(written(directory, changed_args("models", value=[entry]))).settings
    return found.models[0], found


def weights_bytes(directory: Path, path: Path, **model: object) -> int:
    demand = demand_of(*settings(directory, **model), path, kind=DeviceKind.HOST)
    return demand.estimate.part_bytes(PartName.WEIGHTS)


class TestDemandOf:
    def test_weights_are_exact_to_the_byte_over_all_shards(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "c", num_floats=12_345, shards=3)
        assert weights_bytes(tmp_path, path) == 3 * 12_345 * 4

    def test_weights_are_counted_in_the_number_format_that_runs(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "c", num_floats=12_345)
        assert weights_bytes(tmp_path, path, dtype="bfloat16") == 12_345 * 2

    def test_the_kv_budget_of_the_file_is_the_kv_cache(self, tmp_path: Path) -> None:
        model, found = settings(tmp_path, kv_cache_bytes="64MiB")
        demand = demand_of(model, found, checkpoint(tmp_path / "c"), kind=DeviceKind.HOST)
        assert demand.estimate.part_bytes(PartName.KV_CACHE) == 64 * 2**20

    def test_carries_priority_replicas_and_the_key_messages_point_to(self, tmp_path: Path) -> None:
        model, found = settings(tmp_path, replicas=3, priority=7)
        demand = demand_of(model, found, checkpoint(tmp_path / "c"), kind=DeviceKind.HOST)
        assert (demand.model, demand.num_replicas, demand.priority, demand.path) == ("mini", 3, 7, "models[0]")

    def test_no_weights_are_read(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "c", num_floats=2**40)  # a sparse file larger than any disk here
        assert weights_bytes(tmp_path, path) == 2**42

    def test_a_cut_file_is_refused(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "c")
        with (path / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(CheckpointRefused, match=r"model\.safetensors"):
            weights_bytes(tmp_path, path)

    def test_a_tensor_in_two_shards_is_refused(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "c")
        write_shard(path / "other.safetensors", tensor="layer.0", num_floats=10)
        with pytest.raises(CheckpointRefused, match="more than one shard"):
            weights_bytes(tmp_path, path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
    def test_a_config_that_is_none_is_refused(self, tmp_path: Path, text: str) -> None:
        path = checkpoint(tmp_path / "c")
        (path / "config.json").write_text(text)
        with pytest.raises(CheckpointRefused, match=r"config\.json"):
            weights_bytes(tmp_path, path)

    def test_a_directory_without_weights_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
        with pytest.raises(CheckpointRefused, match=r"no \.safetensors"):
            weights_bytes(tmp_path, tmp_path)

    def test_a_kind_nobody_can_size_is_unsupported_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(ModelUnsupported, match=r"'strange'.*mamba_d_state"):
            weights_bytes(tmp_path, checkpoint(tmp_path / "c", model_type="strange", mamba_d_state=16))

    def test_an_unknown_kind_with_the_entries_of_a_llama_is_counted_from_its_headers(self, tmp_path: Path) -> None:
        assert weights_bytes(tmp_path, checkpoint(tmp_path / "c", model_type="strange", num_floats=99)) == 99 * 4

    def test_a_length_the_model_does_not_have_is_a_problem_of_its_key(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            weights_bytes(tmp_path, checkpoint(tmp_path / "c"), max_model_len=2048)
        assert caught.value.problems[0].path == "applications[0].args.models[0].max_model_len"


class TestWanted:
    def test_every_fault_of_every_model_is_a_problem_with_its_line(self, tmp_path: Path) -> None:
        models = [
            {"id": "long", "source": str(checkpoint(tmp_path / "roots/long")), "max_model_len": 4096},
            {"id": "odd", "source": str(checkpoint(tmp_path / "roots/odd", model_type="strange", mamba_d_state=16))},
            {"id": "good", "source": str(checkpoint(tmp_path / "roots/good"))},
        ]
        data = changed_args("models", value=models)
        data["applications"][0]["args"] |= {"modes": {}, "storage": {"model_roots": [str(tmp_path / "roots")]}}
        with pytest.raises(ConfigError) as caught:
            wanted(load_cluster(written(tmp_path, data)), kind=DeviceKind.HOST)
        assert [(problem.path, problem.line) for problem in caught.value.problems] == [
            ("applications[0].args.models[0].max_model_len", 8),
            ("applications[0].args.models[1].source", 10),
        ]
