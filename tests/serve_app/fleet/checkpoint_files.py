"""Builds checkpoint directories of the right form and size without any weights: sparse safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256,
    "intermediate_size": 128,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "dtype": "float32",
}


def checkpoint(directory: Path, *, num_floats: int = 1000, shards: int = 1, **config: Any) -> Path:
    """A checkpoint whose shards hold `num_floats` float32 each; `config` replaces entries of config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**LLAMA, **config}))
    for shard in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        write_shard(directory / name, tensor=f"layer.{shard}", num_floats=num_floats)
    return directory


def write_shard(path: Path, *, tensor: str, num_floats: int) -> None:
    header = json.dumps({tensor: {"dtype": "F32", "shape": [num_floats], "data_offsets": [0, num_floats * 4]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_floats * 4)
