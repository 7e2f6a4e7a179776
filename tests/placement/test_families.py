"""The table of families: its counts are those of transformers' own models, and of what was published."""

from __future__ import annotations

import json
from typing import Any

import pytest

from placement.families import FAMILIES, TEXT_ALIASES, WRAPPERS
from placement.model_spec import ModelSpec, model_spec, num_params, weights_bytes_from_config
from placement.weights_count import loadable_bytes_from_config
from tests.placement.published import FP8_BLOCKS, MXFP4, families, family_config

BY_REMOTE_CODE = {"baichuan", "chatglm", "exaone", "internlm", "internlm2", "internlm3", "minicpm", "qwen", "xverse"}
"""Families that ship their own code and are not in transformers."""
LIKE = {"kimi_k2": "deepseek_v3"}
"""Families that transformers knows under another name."""


def in_layers(spec: ModelSpec) -> int:
    """Parameters as transformers has them: it leaves layers for further tokens out, and some choosers are buffers."""
    return sum(module.num_params for module in spec.modules if not module.stored_only)


def choosers(spec: ModelSpec) -> int:
    kept = [module for module in spec.modules if not module.stored_only]
    return sum(module.num_params for module in kept if module.name.endswith("e_score_correction_bias"))


def spec_of(name: str, **changes: Any) -> ModelSpec:
    return model_spec(family_config(name) | changes, dtype="config")


class TestEveryFamily:
    @pytest.mark.parametrize("name", families())
    def test_has_as_many_parameters_as_transformers_makes(self, name: str) -> None:
        spec = spec_of(name)
        assert families()[name]["num_params"] in (in_layers(spec), in_layers(spec) - choosers(spec))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", families())
    def test_the_recorded_parameters_are_those_of_the_real_model(self, name: str) -> None:
        assert real_params(family_config(name)) == families()[name]["num_params"]

    def test_that_transformers_knows_is_tried_with_a_published_config(self) -> None:
        tried = {model_spec(row["config"]).model_type for row in families().values()}
        assert set(FAMILIES) - tried == BY_REMOTE_CODE

    def test_inside_a_model_of_several_senses_is_in_the_table(self) -> None:
        assert set(WRAPPERS.values()) | set(TEXT_ALIASES.values()) <= set(FAMILIES)

    @pytest.mark.parametrize("name", families())
    def test_loses_a_layer_with_its_weights(self, name: str) -> None:
        config = family_config(name)
        inner = dict(config.get("text_config", config))
        inner["num_hidden_layers"] = 2
        small = config | ({"text_config": inner} if "text_config" in config else inner)
        if "num_hidden_layers" in json.dumps(config) and "hybrid_override_pattern" not in config:
            assert num_params(model_spec(small)) < num_params(model_spec(config))


class TestPublishedSizes:
    @pytest.mark.parametrize(
        ("name", "changes", "total_bytes"),
        [
            ("gpt-oss-120b", MXFP4, 65_248_815_744),  # total_size of its index
            ("deepseek-v2-lite", {}, 31_412_968_448),  # total_size of its index
            # 3,918,786,560 in bfloat16, 680,571,043,840 in FP8 and 41,555,600 in float32, as its page states
            ("deepseek-v3", FP8_BLOCKS, 2 * 3_918_786_560 + 680_571_043_840 + 4 * 41_555_600),
            ("qwen3-30b-a3b", {}, 61_064_245_248),
            ("gemma-2-9b", {"torch_dtype": "bfloat16"}, 18_483_411_968),
            ("phi-2", {}, 5_559_367_680),
        ],
    )
    def test_are_met_to_the_byte(self, name: str, changes: dict[str, Any], total_bytes: int) -> None:
        assert weights_bytes_from_config(spec_of(name, **changes)) == total_bytes

    @pytest.mark.parametrize(
        ("name", "params"),
        [
            ("glm-4.5-air", 110_468_824_832),
            ("glm-4.5", 358_337_791_296),
            ("qwen3-next-80b-a3b", 81_324_862_720),
        ],
    )
    def test_count_the_layers_that_predict_further_tokens(self, name: str, params: int) -> None:
        """Parameters as the models' pages state them."""
        assert num_params(spec_of(name)) == params

    def test_but_those_layers_are_not_loaded(self) -> None:
        spec = spec_of("deepseek-v3")
        assert loadable_bytes_from_config(spec) == 2 * in_layers(spec) + 2 * choosers(spec)


def real_params(config: dict[str, Any]) -> int:
    """Parameters of the real model, made without memory; tied ones once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    entries = {key: value for key, value in config.items() if key not in ("model_type", "quantization_config")}
    model_type = LIKE.get(config["model_type"], config["model_type"])
    auto = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(AutoConfig.for_model(model_type, **json.loads(json.dumps(entries))))
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", model.config.tie_word_embeddings)
    heads = ("lm_head.weight", "embed_out.weight") if tied else ()
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name not in heads)
