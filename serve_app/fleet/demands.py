"""From the settings and the files they name to demands: config.json and safetensors headers are read, never weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from placement.demand import Demand
from placement.errors import BadEngineArguments, BadHeader, UnsupportedModel
from placement.estimate import (
    Measurement,
    ModelSpec,
    estimate_replica,
    loadable_bytes_from_headers,
    model_spec,
)
from placement.inventory import DeviceKind
from serve_app.config.load import ARGS_LOCATION
from serve_app.config.problems import ConfigError, Problem, path_text, value_text
from serve_app.config.settings import DeviceChoice, ModelSettings, Settings
from serve_app.errors import ModelUnsupported
from serve_app.fleet.model_files import read_config, read_headers, refused


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
    weights = loadable_weights_bytes(checkpoint, spec)
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
    return spec_of(read_config(checkpoint), dtype=dtype, origin=str(checkpoint), weights_known=True)


def spec_of(
    config: Mapping[str, object], *, dtype: str, origin: str, kv_dtype: str = "auto", weights_known: bool = False
) -> ModelSpec:
    """`origin` says in the error where the config is from; the rest as for `model_spec`. Raises: ModelUnsupported."""
    try:
        return model_spec(config, dtype=dtype, kv_dtype=kv_dtype, weights_known=weights_known)
    except UnsupportedModel as error:
        raise ModelUnsupported(
            f"The size of the model in {origin} cannot be estimated: {error}.",
            expected="A decoder-only model of a known kind.",
            advice="Serve another model, or add its family to placement/families.py.",
        ) from error


def loadable_weights_bytes(checkpoint: Path, spec: ModelSpec) -> int:
    """Bytes of the weights as the engine loads them, exact by the headers. Raises: CheckpointRefused."""
    try:
        return loadable_bytes_from_headers(spec, read_headers(checkpoint))
    except BadHeader as error:
        raise refused(checkpoint, str(error)) from error


def _bad_argument(model: ModelSettings, error: BadEngineArguments) -> ConfigError:
    path = f"{path_text(ARGS_LOCATION)}.{model.path}.{error.key}"
    value = getattr(model, error.key, None)
    return ConfigError("cluster.yaml", [Problem(path=path, what=f"is {value_text(value)}: {error}", expected="")])
