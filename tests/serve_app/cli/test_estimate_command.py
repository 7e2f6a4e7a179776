"""`headroom estimate`: sizes from a config or a checkpoint, and --compare with what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from placement.estimate import Measurement
from placement.inventory import DeviceKind
from serve_app.cli import main
from serve_app.config.load import load_cluster
from serve_app.controller.store import Store
from serve_app.fleet.measurements import measurement_key, shape_digest, store_path, type_key
from tests.placement.published import DATA, MXFP4
from tests.serve_app.config.cluster_text import changed_args, written
from tests.serve_app.fleet.checkpoint_files import LLAMA, checkpoint, write_shard

GIB = 2**30
TRUTH: list[dict[str, Any]] = json.loads((DATA / "models" / "ground_truth.json").read_text(encoding="utf-8"))
CONFIG_OF = {
    "Qwen/Qwen3-0.6B": "Qwen--Qwen3-0.6B",
    "Qwen/Qwen3-8B": "Qwen--Qwen3-8B",
    "Qwen/Qwen3-32B": "Qwen--Qwen3-32B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama--Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B-Instruct": "meta-llama--Meta-Llama-3.1-70B",
    "mistralai/Mixtral-8x7B-v0.1": "mistralai--Mixtral-8x7B-v0.1",
    "openai/gpt-oss-20b": "openai--gpt-oss-20b",
}
WITH_CONFIG = [row for row in TRUTH if row["model"] in CONFIG_OF]


def estimate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["estimate", *map(str, arguments)])


def sizes(*arguments: object) -> dict[str, Any]:
    result = estimate(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def config_file(model: str) -> Path:
    return DATA / "models" / f"{CONFIG_OF[model]}_config.json"


def changed_config(directory: Path, **changes: object) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({**LLAMA, **changes}), encoding="utf-8")
    return path


class TestPublishedModels:
    @pytest.mark.parametrize("row", WITH_CONFIG, ids=lambda row: row["model"])
    def test_weights_and_cache_are_exact_to_the_byte(self, row: dict[str, Any]) -> None:
        found = sizes(config_file(row["model"]))
        assert found["weights_bytes"] == row["weights_bytes"]
        per_token = row.get("kv_bytes_per_token_tp1", row.get("kv_bytes_per_token_all_layers"))
        assert (found["kv_bytes_per_token"], found["kv_block_bytes"]) == (per_token, row["kv_block16_bytes_tp1"])

    @pytest.mark.parametrize("row", [row for row in WITH_CONFIG if "observed" in row], ids=lambda row: row["model"])
    def test_the_total_is_within_five_percent_of_the_log(self, row: dict[str, Any]) -> None:
        seen = row["observed"]
        total = sum(seen[key] for key in ("weights_gib", "activation_gib", "non_torch_gib", "cuda_graph_gib"))
        assert sizes(config_file(row["model"]))["total_bytes"] / GIB == pytest.approx(total, rel=0.05)

    def test_the_total_is_the_sum_of_parts_that_all_name_their_source(self) -> None:
        found = sizes(config_file("openai/gpt-oss-20b"))
        assert found["total_bytes"] == sum(part["num_bytes"] for part in found["parts"])
        assert all(part["source"] for part in (*found["parts"], *found["planned_parts"]))
        assert found["planned_bytes"] > found["total_bytes"]


class TestArguments:
    def test_ranks_share_weights_and_cache(self) -> None:
        path = config_file("Qwen/Qwen3-8B")
        alone, shared = sizes(path), sizes(path, "--tp", 2)
        assert shared["weights_bytes"] == pytest.approx(alone["weights_bytes"] / 2, rel=0.001)
        assert shared["kv_bytes_per_token"] * 2 == alone["kv_bytes_per_token"]
        assert shared["checkpoint_bytes"] == alone["checkpoint_bytes"]

    def test_the_number_format_is_that_of_the_config_unless_another_is_asked_for(self, tmp_path: Path) -> None:
        path = changed_config(tmp_path, dtype="float32")
        assert sizes(path)["weights_bytes"] == 2 * sizes(path, "--dtype", "bfloat16")["weights_bytes"]
        assert sizes(path, "--dtype", "auto") == sizes(path, "--dtype", "bfloat16")

    def test_fewer_sequences_take_less_activation(self) -> None:
        path = config_file("Qwen/Qwen3-8B")
        assert sizes(path, "--max-num-seqs", 256)["activation_bytes"] < sizes(path)["activation_bytes"]

    def test_a_cache_of_eight_bits_is_half_as_large(self) -> None:
        path = config_file("Qwen/Qwen3-8B")
        assert 2 * sizes(path, "--kv-dtype", "fp8")["kv_bytes_per_token"] == sizes(path)["kv_bytes_per_token"]


class TestCheckpoints:
    def test_weights_are_those_of_the_headers_whatever_the_config_says(self, tmp_path: Path) -> None:
        found = sizes(checkpoint(tmp_path / "c", num_floats=12_345, shards=3))
        assert found["weights_bytes"] == 3 * 12_345 * 4
        assert "safetensors" in found["parts"][0]["source"]

    def test_a_directory_with_a_config_alone_is_counted_from_it(self, tmp_path: Path) -> None:
        path = changed_config(tmp_path)
        assert sizes(tmp_path)["weights_bytes"] == sizes(path)["weights_bytes"]

    def test_an_index_tells_when_the_files_are_elsewhere(self, tmp_path: Path) -> None:
        changed_config(tmp_path)
        index = {"metadata": {"total_size": 987_654}, "weight_map": {}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        assert sizes(tmp_path)["weights_bytes"] == 987_654

    def test_quantisation_stated_beside_the_config_counts(self, tmp_path: Path) -> None:
        changed_config(tmp_path, dtype="bfloat16")
        plain = sizes(tmp_path)["weights_bytes"]
        stated = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}}
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(stated), encoding="utf-8")
        assert sizes(tmp_path)["weights_bytes"] < plain

    def test_layers_that_no_engine_loads_are_stored_and_not_held(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "c", num_floats=1000)
        write_shard(path / "more.safetensors", tensor="model.layers.2.eh_proj.weight", num_floats=500)
        found = sizes(path)
        assert found["weights_bytes"] == 1500 * 4
        assert found["parts"][0]["num_bytes"] == 1000 * 4

    def test_an_unknown_kind_with_files_is_counted_as_a_llama_and_says_so(self, tmp_path: Path) -> None:
        found = sizes(checkpoint(tmp_path / "c", model_type="strange", num_floats=99))
        assert found["weights_bytes"] == 99 * 4
        assert any("strange" in note for note in found["notes"])


class TestTable:
    def test_shows_every_part_in_bytes_and_gib_with_its_source(self, tmp_path: Path) -> None:
        result = estimate(config_file("Qwen/Qwen3-0.6B"))
        for word in ("1,192,099,840", "1.11 GiB", "sampler over 1024 sequences", "CUDA graphs", "114,688", "28 full"):
            assert word in result.stdout

    def test_says_when_a_form_is_padded_for_its_kernels(self) -> None:
        assert "mxfp4" in MXFP4["quantization_config"]["quant_method"]
        assert "padded for its" in estimate(config_file("openai/gpt-oss-20b")).stdout


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "arguments", "word"),
        [
            ({"hidden_size": -1}, (), "hidden_size"),
            ({"num_hidden_layers": 0}, (), "num_hidden_layers"),
            ({"num_hidden_layers": 10**9}, (), "num_hidden_layers"),
            ({"vocab_size": 10**40}, (), "vocab_size"),
            ({"model_type": "strange"}, (), "strange"),
            ({"model_type": None}, (), "model_type"),
            ({"num_key_value_heads": 3}, (), "KV heads"),
            ({"quantization_config": {"quant_method": "hqq"}}, (), "hqq"),
            ({"quantization_config": 7}, (), "quantization_config"),
            ({"layer_types": ["sideways"] * 2}, (), "sideways"),
            ({"dtype": "int3"}, (), "int3"),
            ({}, ("--tp", 4), "num_attention_heads 2"),
            ({}, ("--tp", 0), "tensor_parallel"),
            ({}, ("--tp", -2), "tensor_parallel"),
            ({}, ("--max-num-seqs", 0), "max_num_seqs"),
            ({}, ("--max-num-seqs", 10**30), "max_num_seqs"),
            ({}, ("--max-model-len", 10**12), "max_model_len"),
            ({}, ("--max-model-len", -5), "max_model_len"),
        ],
    )
    def test_is_an_error_that_names_it(
        self, tmp_path: Path, changes: dict[str, object], arguments: tuple[object, ...], word: str
    ) -> None:
        result = estimate(changed_config(tmp_path, **changes), *arguments)
        assert result.exit_code == 2
        assert word in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00"])
    def test_a_file_that_holds_no_object_is_an_error(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        result = estimate(tmp_path / "config.json")
        assert result.exit_code == 2
        assert "config.json" in result.stderr

    def test_a_missing_file_is_an_error_that_says_so(self, tmp_path: Path) -> None:
        result = estimate(tmp_path / "nowhere.json")
        assert result.exit_code == 2
        assert "nowhere.json" in result.stderr

    def test_nothing_named_is_an_error_that_says_what_to_name(self) -> None:
        result = estimate()
        assert result.exit_code == 2
        assert "config.json" in result.stderr


class TestCompare:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        models = [{"id": "little", "source": str(checkpoint(tmp_path / "little", num_floats=1000)), "max_num_seqs": 2}]
        data = changed_args("models", value=models)
        roots = {"home": str(tmp_path / "home"), "model_roots": [str(tmp_path)]}
        data["applications"][0]["args"] |= {"fleet": {"devices": "host"}, "modes": {}, "storage": roots}
        return written(tmp_path, data)

    def store(self, file: Path, measured: Measurement) -> None:
        """As the controller does when a replica is ready."""
        settings = load_cluster(file).settings
        model = settings.models[0]
        key = measurement_key(model, shape_digest(Path(model.source)), DeviceKind.HOST)
        store = Store(store_path(settings.storage.home))
        store.save_measurement(key if not measured.device_type else type_key(key, measured.device_type), measured)
        store.close()

    def test_says_plainly_when_nothing_was_measured_yet(self, file: Path) -> None:
        result = estimate("--compare", file)
        assert result.exit_code == 0, result.output
        assert "little  host  not measured yet" in result.stdout
        assert "Nothing was measured yet" in result.stdout

    def test_shows_every_part_with_its_error(self, file: Path) -> None:
        measured = Measurement(
            when="2026-11-24", engine="test 1", rest_bytes=GIB, peak_bytes=2 * GIB, kv_cache_bytes=8 * 1024,
            device_type="host memory",
        )  # fmt: skip
        self.store(file, measured)
        found = json.loads(estimate("--compare", file, "--json").stdout)["models"]
        assert [(one["model"], one["device_type"]) for one in found] == [("little", "host memory")]
        parts = {part["name"]: part for part in found[0]["parts"]}
        assert parts["weights"]["measured_bytes"] is None
        assert parts["at rest"]["measured_bytes"] == GIB
        expected = (parts["at rest"]["estimated_bytes"] / GIB - 1) * 100
        assert parts["at rest"]["error_percent"] == pytest.approx(expected)
        assert "not looked at" in estimate("--compare", file).stdout

    def test_each_type_of_device_is_compared_on_its_own(self, file: Path) -> None:
        for product in ("A100", "H100"):
            self.store(file, Measurement(when="2026-11-24", engine="test 1", rest_bytes=GIB, device_type=product))
        found = json.loads(estimate("--compare", file, "--json").stdout)["models"]
        assert [one["device_type"] for one in found] == ["A100", "H100"]

    def test_what_an_older_controller_stored_is_still_read(self, file: Path) -> None:
        self.store(file, Measurement(when="2026-11-01", engine="test 1", weights_bytes=1, context_bytes=GIB))
        found = json.loads(estimate("--compare", file, "--json").stdout)["models"]
        assert found[0]["measured_on"] == "2026-11-01"

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        assert estimate("--compare", tmp_path / "none.yaml").exit_code == 2


class TestWeight:
    def test_nothing_heavy_is_imported(self) -> None:
        program = (
            "import sys; from serve_app.cli import main\n"
            f"main(['estimate', {str(config_file('Qwen/Qwen3-8B'))!r}], standalone_mode=False)\n"
            "print(sorted(set(sys.modules) & {'torch', 'vllm', 'ortools', 'ray', 'transformers', 'numpy'}))"
        )
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines()[-1] == "[]"
