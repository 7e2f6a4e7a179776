"""From the settings and the files they name to demands: config.json and safetensors headers are read, never weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from placement.demand import Demand
from placement.errors import BadEngineArguments, BadHeader, UnsupportedModel
from placement.estimate import (
    Measurement,
    ModelSpec,
    SafetensorsHeader,
    estimate_replica,
    header_bytes_needed,
    model_spec,
    parse_safetensors_header,
    weights_bytes_from_headers,
)
from placement.inventory import DeviceKind
from placement.safetensors_header import LENGTH_BYTES
from serve_app.config.load import ARGS_LOCATION
from serve_app.config.problems import ConfigError, Problem, path_text, value_text
from serve_app.config.settings import DeviceChoice, ModelSettings, Settings
from serve_app.errors import CheckpointRefused, ModelUnsupported

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 2**20


def demand_of(
    model: ModelSettings,
    settings: Settings,
    checkpoint: Path,
    *,
    kind: DeviceKind | None = None,
    measured: Measurement | None = None,
) -> Demand:
    """What `model` asks for when it is served from the directory `checkpoint`.

    `kind` None: decided here and now by `settings.fleet.devices`. `measured` replaces computed parts.
    Raises: CheckpointRefused for files that are missing or lie, ModelUnsupported for a model that cannot be
    estimated, ConfigError for arguments no engine would start with.
    """
    spec = read_spec(checkpoint, dtype=model.dtype)
    weights = stored_weights_bytes(checkpoint, dtype_bytes=spec.dtype_bytes)
    kind = kind or device_kind(settings.fleet.devices)
    return demand_from_spec(model, spec, weights_bytes=weights, kind=kind, measured=measured)


def demand_from_spec(
    model: ModelSettings,
    spec: ModelSpec,
    *,
    weights_bytes: int,
    kind: DeviceKind,
    measured: Measurement | None = None,
) -> Demand:
    """As `demand_of`, for a spec and a size known already. Pure. Raises: ConfigError."""
    try:
        estimate = estimate_replica(
            spec,
            weights_bytes=weights_bytes,
            device_kind=kind,
            max_model_len=model.max_model_len,
            max_num_seqs=model.max_num_seqs,
            kv_cache_bytes=model.kv_cache_bytes,
            tensor_parallel=model.tensor_parallel,
            measured=measured,
        )
    except BadEngineArguments as error:
        raise _bad_argument(model, error) from error
    return Demand(
        model=model.id,
        num_replicas=model.num_replicas,
        priority=model.priority,
        estimate=estimate,
        tensor_parallel=model.tensor_parallel,
        path=model.path,
        device_types=model.device_types,
        cpu_millis=model.cpu_millis,
        host_memory_bytes=model.host_memory_bytes,
        requests_per_s=model.requests_per_s,
        max_offload_bytes=model.max_offload_bytes,
    )


def device_kind(choice: DeviceChoice) -> DeviceKind:
    """The kind that `choice` comes to on this machine. Raises: DeviceUnreadable for a driver that is broken."""
    from serve_app.fleet.devices import local_inventory

    match choice:
        case DeviceChoice.CUDA:
            return DeviceKind.CUDA
        case DeviceChoice.HOST:
            return DeviceKind.HOST
        case DeviceChoice.AUTO:
            return local_inventory(choice, "here").devices[0].kind


def read_spec(checkpoint: Path, *, dtype: str) -> ModelSpec:
    """Raises: CheckpointRefused when config.json cannot be read, ModelUnsupported when it is of an unknown kind."""
    return spec_of(_config(checkpoint), dtype=dtype, origin=str(checkpoint))


def spec_of(config: Mapping[str, object], *, dtype: str, origin: str) -> ModelSpec:
    """`origin` says in the error where the config is from. Raises: ModelUnsupported."""
    try:
        return model_spec(config, dtype=dtype)
    except UnsupportedModel as error:
        raise ModelUnsupported(
            f"The size of the model in {origin} cannot be estimated: {error}.",
            expected="A decoder-only model of a known kind.",
            advice="Serve another model, or add its kind to placement/model_spec.py.",
        ) from error


def stored_weights_bytes(checkpoint: Path, *, dtype_bytes: int) -> int:
    """Bytes of all weights in the engine's number format, exact by the headers. Raises: CheckpointRefused."""
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise _refused(checkpoint, "it has no .safetensors file")
    try:
        return weights_bytes_from_headers([_header(path) for path in files], float_bytes=dtype_bytes)
    except (BadHeader, OSError) as error:
        raise _refused(checkpoint, str(error)) from error


def _header(path: Path) -> SafetensorsHeader:
    with path.open("rb") as file:
        first = file.read(LENGTH_BYTES)
        rest = file.read(header_bytes_needed(first) - len(first))
    try:
        return parse_safetensors_header(first + rest, file_bytes=path.stat().st_size)
    except BadHeader as error:
        raise BadHeader(f"{path.name}: {error}") from error


def _config(checkpoint: Path) -> Mapping[str, Any]:
    path = checkpoint / CONFIG_NAME
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _refused(checkpoint, f"its {CONFIG_NAME} is larger than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(checkpoint, f"its {CONFIG_NAME} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise _refused(checkpoint, f"its {CONFIG_NAME} holds no JSON object")
    return config


def _bad_argument(model: ModelSettings, error: BadEngineArguments) -> ConfigError:
    path = f"{path_text(ARGS_LOCATION)}.{model.path}.{error.key}"
    value = getattr(model, error.key, None)
    return ConfigError("cluster.yaml", [Problem(path=path, what=f"is {value_text(value)}: {error}", expected="")])


def _refused(checkpoint: Path, why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"Checkpoint {checkpoint} is refused: {why}.",
        expected="A directory with config.json and whole safetensors files.",
        advice="Copy the checkpoint again from where it was made.",
    )
