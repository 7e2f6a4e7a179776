"""Small checkpoints of random weights with a manifest, and depots that hold them."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path

from serve_app.rollout.depot import Depot, DepotSettings
from serve_app.training.writer import Origin, write_checkpoint

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32}


def made(folder: Path, *, step: int = 1, num_bytes: int = 4096, shards: int = 1, seed: int = 0) -> Path:
    """`folder/checkpoint-<step>`; `num_bytes` in each shard."""
    origin = Origin(model="tiny", step=step, config_hash="c", seed=seed, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    return write_checkpoint(folder, origin, fill=lambda into: fill(into, num_bytes=num_bytes, shards=shards, seed=seed))


def fill(into: Path, *, num_bytes: int = 4096, shards: int = 1, seed: int = 0) -> None:
    chance = random.Random(seed)
    (into / "config.json").write_text(json.dumps(CONFIG))
    (into / "tokenizer.json").write_text('{"version": "1.0"}')
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    names = names if shards > 1 else ["model.safetensors"]
    for name in names:
        header = {f"layer.{name}": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}
        head = json.dumps(header).encode()
        (into / name).write_bytes(len(head).to_bytes(8, "little") + head + chance.randbytes(num_bytes))
    if shards > 1:
        index = {"weight_map": {f"layer.{name}": name for name in names}}
        (into / "model.safetensors.index.json").write_text(json.dumps(index))


def depot(home: Path, node: str, *, keep_free_bytes: int = 0) -> Depot:
    return Depot(DepotSettings(node=node, home=home, roots=(home / "models",), keep_free_bytes=keep_free_bytes))
