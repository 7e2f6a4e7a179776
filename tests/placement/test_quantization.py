"""Quantised checkpoints: bytes with their scales, and what stays in the model's own numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from placement.errors import BadEngineArguments, UnsupportedModel
from placement.estimate import reject_bad_arguments
from placement.kept_modules import KeptModules
from placement.model_spec import ModelSpec, model_spec, num_params, weights_bytes_from_config
from placement.modules import Module, Shape
from placement.quantization import Packing, Scales, module_bytes
from placement.weights_count import loaded_bytes
from tests.placement.published import DATA, FP8_BLOCKS, MXFP4, family_config

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
FP8_CHANNEL = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
        }
    },
}
NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}


def quantised(name: str, quantization: dict[str, Any]) -> ModelSpec:
    file = DATA / "models" / f"{name}_config.json"
    return model_spec(json.loads(file.read_text(encoding="utf-8")) | {"quantization_config": quantization})


class TestPublishedSizes:
    @pytest.mark.parametrize(
        ("name", "quantization", "total_bytes"),
        [
            ("meta-llama--Meta-Llama-3.1-70B", AWQ, 39_767_785_472),  # total_size of its index
            ("meta-llama--Meta-Llama-3.1-70B", FP8_CHANNEL, 72_669_806_592),  # all 1283 tensors
            ("Qwen--Qwen3-32B", AWQ, 19_325_298_688),  # its headers; the index states 13 MB more
            ("openai--gpt-oss-20b", MXFP4["quantization_config"], 13_761_264_768),
        ],
    )
    def test_are_met_to_the_byte(self, name: str, quantization: dict[str, Any], total_bytes: int) -> None:
        assert weights_bytes_from_config(quantised(name, quantization)) == total_bytes


class TestPacking:
    SHAPE = Shape(rows=200, columns=300, bias=0)

    @pytest.mark.parametrize(
        ("packing", "expected"),
        [
            (Packing(bits=8, scales=Scales.TENSOR), 60_000 + 4),
            (Packing(bits=8, scales=Scales.CHANNEL, scale_bytes=None), 60_000 + 200 * 2),
            (Packing(bits=8, scales=Scales.BLOCK, block=(128, 128)), 60_000 + 2 * 3 * 4),
            (Packing(bits=4, scales=Scales.GROUP, scale_bytes=1, group=32), 30_000 + 200 * 10),
            (Packing(bits=4, scales=Scales.GROUP, scale_bytes=2, group=0), 30_000 + 200 * 2),
            (
                Packing(bits=4, scales=Scales.GROUP, scale_bytes=2, group=100, zeros=True, order=True),
                30_000 + 3 * (200 * 2 + 200 // 2) + 300 * 4,
            ),
        ],
    )
    def test_counts_weights_scales_zeros_and_order(self, packing: Packing, expected: int) -> None:
        assert packing.matrix_bytes(self.SHAPE, dtype_bytes=2) == expected

    def test_biases_keep_the_numbers_of_the_model(self) -> None:
        spec = model_spec(family_config("llama-biased") | {"quantization_config": GPTQ})
        module = next(module for module in spec.modules if module.name == "mlp.up_proj")
        plain = Module(name=module.name, rows=module.rows, columns=module.columns, layers=module.layers)
        assert (
            module_bytes(module, spec.quantization, dtype_bytes=2)
            == module_bytes(plain, spec.quantization, dtype_bytes=2) + 3 * 1024 * 2
        )


class TestKeptModules:
    @pytest.mark.parametrize(
        ("entry", "path"),
        [
            ("lm_head", "lm_head"),
            ("model.layers.3.mlp.gate_proj", "model.layers.3.mlp.gate_proj"),
            ("model.layers.3", "model.layers.3.mlp.gate_proj"),
            ("model.layers.*.self_attn", "model.layers.3.self_attn.q_proj"),
            ("re:.*self_attn.*", "model.layers.3.self_attn.q_proj"),
            ("gate", "model.layers.3.mlp.gate"),
            ("language_model.model.layers.3.feed_forward.shared_expert", "model.layers.3.mlp.shared_experts.up_proj"),
            ("Llama4TextAttention", "model.layers.3.self_attn.o_proj"),
        ],
    )
    def test_are_found_by_every_way_of_naming_them(self, entry: str, path: str) -> None:
        assert KeptModules.of([entry]).holds(path)

    @pytest.mark.parametrize("entry", ["model.layers.1", "gate", "model.layers.*.self_attn", "re:.*self_attn.*"])
    def test_are_not_found_by_half_a_name(self, entry: str) -> None:
        assert not KeptModules.of([entry]).holds("model.layers.13.mlp.gate_proj")

    def test_weigh_what_they_weighed(self) -> None:
        kept = {**FP8_CHANNEL, "ignore": ["lm_head", "re:.*mlp.*", "re:.*self_attn.*"]}
        spec = quantised("Qwen--Qwen3-8B", kept)
        assert weights_bytes_from_config(spec) == 2 * num_params(spec)

    def test_an_expression_that_is_none_is_refused(self) -> None:
        with pytest.raises(UnsupportedModel, match="cannot be read"):
            KeptModules.of(["re:("])


class TestFormats:
    @pytest.mark.parametrize("quantization", [AWQ, GPTQ, FP8_CHANNEL, NVFP4])
    def test_embeddings_and_head_are_never_packed(self, quantization: dict[str, Any]) -> None:
        spec = quantised("Qwen--Qwen3-8B", quantization)
        ends = [module for module in spec.modules if module.name in ("model.embed_tokens", "lm_head")]
        assert sum(module_bytes(module, spec.quantization, dtype_bytes=2) for module in ends) == 4 * 151936 * 4096

    @pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "never_heard_of"])
    def test_an_unknown_one_is_refused_by_name_without_files(self, method: str) -> None:
        spec = quantised("Qwen--Qwen3-8B", {"quant_method": method})
        with pytest.raises(UnsupportedModel, match=method) as refused:
            weights_bytes_from_config(spec)
        assert refused.value.key == "quantization_config"

    def test_a_checkpoint_with_scales_for_its_cache_gets_one_of_eight_bits(self) -> None:
        modelopt = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
        for quantization in (modelopt, {**FP8_CHANNEL, "kv_cache_scheme": {"num_bits": 8, "type": "float"}}):
            assert quantised("Qwen--Qwen3-8B", quantization).kv_dtype_bytes == 1
        assert quantised("Qwen--Qwen3-8B", FP8_CHANNEL).kv_dtype_bytes == 2

    @pytest.mark.parametrize(
        ("width", "quantization", "ranks", "fits"),
        [
            (768, FP8_BLOCKS["quantization_config"], 2, True),
            (768, FP8_BLOCKS["quantization_config"], 4, False),  # Qwen3-30B-A3B in FP8 does not start on four
            (768, None, 4, True),
            (29_568, GPTQ, 8, False),  # nor Qwen2.5-72B in GPTQ on eight
            (29_568, GPTQ, 1, True),
        ],
    )
    def test_ranks_must_divide_blocks_and_groups(
        self, width: int, quantization: dict[str, Any] | None, ranks: int, fits: bool
    ) -> None:
        config = family_config("qwen2.5-0.5b") | {"intermediate_size": width, "num_attention_heads": 64}
        config |= {"hidden_size": 8192, "num_key_value_heads": 8, "quantization_config": quantization}
        arguments = {"max_model_len": 1024, "max_num_seqs": 1, "tensor_parallel": ranks}
        if fits:
            reject_bad_arguments(model_spec(config), **arguments)
            return
        with pytest.raises(BadEngineArguments, match="in multiples of 128"):
            reject_bad_arguments(model_spec(config), **arguments)

    def test_mxfp4_loads_some_five_percent_larger(self) -> None:
        """vLLM 0.11 logged 13.47 GiB on an H100."""
        spec = quantised("openai--gpt-oss-20b", MXFP4["quantization_config"])
        assert loaded_bytes(spec) / 2**30 == pytest.approx(13.47, rel=0.005)

    def test_each_of_two_ranks_holds_half_of_the_packed_weights(self) -> None:
        """The log of Llama 3.3 70B in FP8 says 33.88 GiB."""
        spec = quantised("meta-llama--Meta-Llama-3.1-70B", FP8_CHANNEL)
        assert loaded_bytes(spec, tensor_parallel=2) / 2**30 == pytest.approx(33.88, rel=0.005)
