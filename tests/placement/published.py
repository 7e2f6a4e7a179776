"""Configs of published models of every family in the table, and readers for them and for the ground truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"
FP8_BLOCKS = {
    "quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
}
MXFP4 = {
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    }
}


def families() -> dict[str, dict[str, Any]]:
    """By a model's name: its `config`, and `num_params`, what transformers 5.19 makes of it on the meta device."""
    whole: dict[str, dict[str, Any]] = json.loads((DATA / "model_families.json").read_text(encoding="utf-8"))
    return whole


def family_config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = families()[name]["config"]
    return config
