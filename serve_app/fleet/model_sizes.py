"""From a path to the sizes of the model that lies there: files read here, counting done in `placement`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from placement.errors import BadHeader
from placement.inventory import DeviceKind
from placement.model_spec import ModelSpec, model_spec
from placement.safetensors_header import weights_bytes_from_headers
from placement.size_report import Setting, SizeReport, StoredWeights, size_report, weights_of_config
from placement.weights_count import loadable_bytes_from_headers, loaded_headers, next_layers_bytes
from serve_app.fleet.model_files import (
    INDEX_NAME,
    ModelFiles,
    has_shards,
    indexed_bytes,
    read_headers,
    read_model_files,
    refused,
)

CONFIG_DTYPE = "config"
"""As the config says, float32 included; vLLM's own `auto` would run that in 2 bytes."""
H100_SEQS = 1024
"""vLLM's max_num_seqs on a GPU of 70 GiB and more. Source: vLLM 0.32 `engine/arg_utils.py`, get_batch_defaults."""
HOST_SEQS = 128
"""The same on a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Arguments of the engine; None is vLLM's own default, for the length the longest that the model has."""

    dtype: str = CONFIG_DTYPE
    kv_dtype: str = "auto"
    tensor_parallel: int = 1
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    device_kind: DeviceKind = DeviceKind.CUDA


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """The report, and what it was made for."""

    report: SizeReport
    setting: Setting
    dtype_bytes: int
    kv_dtype_bytes: int


def sizes_of(path: Path, asked: Asked) -> ModelSizes:
    """Sizes of the checkpoint directory or the bare config at `path`.

    Raises: CheckpointRefused for files that are missing or lie, PlacementError for a model that cannot be counted or
    arguments that vLLM would not start with.
    """
    files = read_model_files(path)
    shards = files.directory is not None and (has_shards(files.directory) or indexed_bytes(files.directory) is not None)
    spec = model_spec(files.config, dtype=asked.dtype, kv_dtype=asked.kv_dtype, weights_known=shards)
    setting = _setting(spec, asked)
    weights = _weights(files, spec, asked)
    return ModelSizes(
        report=size_report(spec, weights, setting),
        setting=setting,
        dtype_bytes=spec.dtype_bytes,
        kv_dtype_bytes=spec.kv_dtype_bytes,
    )


def _setting(spec: ModelSpec, asked: Asked) -> Setting:
    seqs = H100_SEQS if asked.device_kind is DeviceKind.CUDA else HOST_SEQS
    return Setting(
        device_kind=asked.device_kind,
        tensor_parallel=asked.tensor_parallel,
        max_model_len=spec.max_position if asked.max_model_len is None else asked.max_model_len,
        max_num_seqs=seqs if asked.max_num_seqs is None else asked.max_num_seqs,
    )


def _weights(files: ModelFiles, spec: ModelSpec, asked: Asked) -> StoredWeights:
    """From headers where there are files, from their index where they are elsewhere, else from the config."""
    if files.directory is None:
        return weights_of_config(spec)
    if has_shards(files.directory):
        return _weights_of_headers(files.directory, spec, as_stored=asked.dtype == CONFIG_DTYPE)
    total = indexed_bytes(files.directory)
    if total is None:
        return weights_of_config(spec)
    unloaded = min(total, next_layers_bytes(spec))
    return StoredWeights(
        checkpoint_bytes=total, unloaded_bytes=unloaded, loadable_bytes=total - unloaded, source=INDEX_NAME
    )


def _weights_of_headers(directory: Path, spec: ModelSpec, *, as_stored: bool) -> StoredWeights:
    headers = read_headers(directory)
    try:
        stored = weights_bytes_from_headers(headers)
        kept = weights_bytes_from_headers(loaded_headers(spec, headers))
        loadable = kept if as_stored else loadable_bytes_from_headers(spec, headers)
    except BadHeader as error:
        raise refused(directory, str(error)) from error
    number = f"{len(headers)} safetensors headers" if len(headers) > 1 else "safetensors header"
    return StoredWeights(checkpoint_bytes=stored, unloaded_bytes=stored - kept, loadable_bytes=loadable, source=number)


def as_json_value(sizes: ModelSizes) -> Mapping[str, object]:
    """The one object that `--json` prints; every number in bytes unless its name says otherwise."""
    report, setting = sizes.report, sizes.setting
    return {
        "model_type": report.model_type,
        "device_kind": setting.device_kind.value,
        "tensor_parallel": setting.tensor_parallel,
        "max_model_len": setting.max_model_len,
        "max_num_seqs": setting.max_num_seqs,
        "dtype_bytes": sizes.dtype_bytes,
        "kv_dtype_bytes": sizes.kv_dtype_bytes,
        "checkpoint_bytes": report.checkpoint_bytes,
        "weights_bytes": report.weights_bytes,
        "kv_bytes_per_token": report.kv_bytes_per_token,
        "kv_block_bytes": report.kv_block_bytes,
        "kv_block_tokens": report.kv_block_tokens,
        "kv_groups": list(report.kv_groups),
        "state_bytes_per_sequence": report.state_bytes_per_sequence,
        "kv_sequence_bytes": report.kv_sequence_bytes,
        "kv_cache_bytes": report.kv_cache_bytes,
        "activation_bytes": report.activation_bytes,
        "total_bytes": report.total_bytes,
        "parts": [{"name": p.name, "num_bytes": p.num_bytes, "source": p.source} for p in report.parts],
        "planned_bytes": report.planned.peak_bytes,
        "planned_parts": [
            {"name": p.name.value, "num_bytes": p.num_bytes, "source": p.source} for p in report.planned.parts
        ],
        "notes": list(report.notes),
    }
