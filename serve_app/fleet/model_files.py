"""Files of a model as sizes need them: config.json and the headers of safetensors. Weights are never read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from placement.errors import BadHeader
from placement.safetensors_header import (
    LENGTH_BYTES,
    SafetensorsHeader,
    header_bytes_needed,
    parse_safetensors_header,
)
from serve_app.errors import CheckpointRefused

CONFIG_NAME = "config.json"
QUANT_CONFIG_NAME = "hf_quant_config.json"
"""Where modelopt writes what others write into config.json as `quantization_config`."""
INDEX_NAME = "model.safetensors.index.json"
MAX_CONFIG_BYTES = 2**20
MAX_INDEX_BYTES = 2**27


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """`directory` None: a config alone, with nothing beside it that counts."""

    config: Mapping[str, Any]
    directory: Path | None


def read_model_files(path: Path) -> ModelFiles:
    """Of a checkpoint directory, or of a config file of any name. Raises: CheckpointRefused."""
    if path.is_dir():
        return ModelFiles(config=read_config(path), directory=path)
    if not path.is_file():
        raise CheckpointRefused(
            f"{path} is not there.",
            expected="A checkpoint directory, or a config.json.",
            advice="Correct the path.",
        )
    return ModelFiles(config=_json_object(path.parent, path, MAX_CONFIG_BYTES), directory=None)


def read_config(checkpoint: Path) -> Mapping[str, Any]:
    """config.json, with the quantisation that modelopt states beside it. Raises: CheckpointRefused."""
    config = _json_object(checkpoint, checkpoint / CONFIG_NAME, MAX_CONFIG_BYTES)
    beside = checkpoint / QUANT_CONFIG_NAME
    if config.get("quantization_config") is None and beside.is_file():
        stated = _json_object(checkpoint, beside, MAX_CONFIG_BYTES)
        return {**config, "quantization_config": {"quant_method": "modelopt", **stated}}
    return config


def read_headers(checkpoint: Path) -> tuple[SafetensorsHeader, ...]:
    """Of all shards. Raises: CheckpointRefused when there are none, or one lies."""
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise refused(checkpoint, "it has no .safetensors file")
    try:
        return tuple(_header(path) for path in files)
    except (BadHeader, OSError) as error:
        raise refused(checkpoint, str(error)) from error


def has_shards(checkpoint: Path) -> bool:
    return any(checkpoint.glob("*.safetensors"))


def indexed_bytes(checkpoint: Path) -> int | None:
    """What the index says all shards hold; None without an index or without that entry. Raises: CheckpointRefused."""
    path = checkpoint / INDEX_NAME
    if not path.is_file():
        return None
    metadata = _json_object(checkpoint, path, MAX_INDEX_BYTES).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    return int(total) if isinstance(total, int | float) and total > 0 else None


def refused(checkpoint: Path, why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"Checkpoint {checkpoint} is refused: {why}.",
        expected="A directory with config.json and whole safetensors files.",
        advice="Copy the checkpoint again from where it was made.",
    )


def _header(path: Path) -> SafetensorsHeader:
    with path.open("rb") as file:
        first = file.read(LENGTH_BYTES)
        rest = file.read(header_bytes_needed(first) - len(first))
    try:
        return parse_safetensors_header(first + rest, file_bytes=path.stat().st_size)
    except BadHeader as error:
        raise BadHeader(f"{path.name}: {error}") from error


def _json_object(checkpoint: Path, path: Path, most_bytes: int) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > most_bytes:
            raise refused(checkpoint, f"its {path.name} is larger than {most_bytes} bytes")
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise refused(checkpoint, f"its {path.name} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise refused(checkpoint, f"its {path.name} holds no JSON object")
    return config
