"""Bytes of a model's cache: of a token, of a block, of sequences; on each device of a replica."""

from __future__ import annotations

from placement.cache_layout import CacheKind, CacheLayout, cache_layout
from placement.errors import BadEngineArguments
from placement.inventory import DeviceKind
from placement.model_spec import ModelSpec
from placement.state_modules import state_bytes

CUDA_BLOCK_TOKENS = 16
"""Source: vLLM 0.32 `config/cache.py`, DEFAULT_BLOCK_SIZE."""
HOST_BLOCK_TOKENS = 128
"""Source: vLLM 0.32 `platforms/cpu.py`, check_and_update_config."""
NULL_BLOCKS = 1
"""The block pool keeps block 0 for itself. Source: vLLM 0.32 `v1/core/block_pool.py`."""
CUDA_BATCHED_TOKENS = 8192
HOST_BATCHED_TOKENS = 2048
"""Source: vLLM 0.32 `engine/arg_utils.py`, defaults of the OpenAI server for max_num_batched_tokens."""


def block_tokens(kind: DeviceKind) -> int:
    """Tokens in one block of vLLM's KV cache."""
    return HOST_BLOCK_TOKENS if kind is DeviceKind.HOST else CUDA_BLOCK_TOKENS


def batched_tokens(kind: DeviceKind) -> int:
    """Tokens that one step works on at most."""
    return HOST_BATCHED_TOKENS if kind is DeviceKind.HOST else CUDA_BATCHED_TOKENS


def layout_of(spec: ModelSpec, *, block: int, tensor_parallel: int = 1) -> CacheLayout:
    """How the cache of `spec` is laid out when the engine starts from blocks of `block` tokens."""
    return cache_layout(
        spec.caches,
        block_tokens=block,
        element_bytes=spec.kv_dtype_bytes,
        state_dtype_bytes=spec.dtype_bytes,
        tensor_parallel=tensor_parallel,
    )


def kv_bytes_per_token(spec: ModelSpec, *, tensor_parallel: int = 1) -> int:
    """Bytes of KV cache that one token makes over all layers, windowed ones included, on each device.

    With more devices than KV heads every device holds one head; a latent is the same on every device. Layers that carry
    a state make none: see `state_bytes_per_sequence`. Shape of a layer: (2, kv_heads, head_dim).
    """
    return sum(
        one.layers * one.token_bytes(element_bytes=spec.kv_dtype_bytes, tensor_parallel=tensor_parallel)
        for one in spec.caches
    )


def state_bytes_per_sequence(spec: ModelSpec, *, tensor_parallel: int = 1) -> int:
    """Bytes of state that one sequence carries over all linear layers, on each device; 0 without such layers."""
    return sum(
        one.layers * state_bytes(one.state, dtype_bytes=spec.dtype_bytes, tensor_parallel=tensor_parallel)
        for one in spec.caches
        if one.kind is CacheKind.STATE and one.state is not None
    )


def kv_block_bytes(spec: ModelSpec, *, block: int = CUDA_BLOCK_TOKENS, tensor_parallel: int = 1) -> int:
    """Bytes of one block of the pool that all groups of layers share, on each device."""
    return layout_of(spec, block=block, tensor_parallel=tensor_parallel).block_bytes


def kv_cache_bytes(
    spec: ModelSpec,
    *,
    tokens: int,
    block: int = 1,
    tensor_parallel: int = 1,
    num_batched_tokens: int = CUDA_BATCHED_TOKENS,
) -> int:
    """Bytes of cache that hold one sequence of `tokens` tokens, in whole blocks of `block`, on each device.

    `num_batched_tokens` are kept beyond a sliding window or a chunk while they are worked on.
    Raises: BadEngineArguments if `tokens` is negative.
    Source: vLLM 0.32 `v1/kv_cache_interface.py`, max_memory_usage_bytes of each kind.
    """
    if tokens < 0:
        raise BadEngineArguments("max_model_len", f"{tokens} tokens cannot be cached; at least 0 can")
    if tokens == 0:
        return 0
    layout = layout_of(spec, block=block, tensor_parallel=tensor_parallel)
    return layout.block_bytes * layout.sequence_blocks(tokens=tokens, batched_tokens=num_batched_tokens)


def kv_cache_bytes_for(
    spec: ModelSpec, *, kind: DeviceKind, max_model_len: int, num_seqs: int, tensor_parallel: int = 1
) -> int:
    """Bytes, on each device, for `num_seqs` sequences of full length at once and the block vLLM keeps for itself."""
    block = block_tokens(kind)
    one = kv_cache_bytes(
        spec,
        tokens=max_model_len,
        block=block,
        tensor_parallel=tensor_parallel,
        num_batched_tokens=max(num_seqs, batched_tokens(kind)),
    )
    return num_seqs * one + NULL_BLOCKS * kv_block_bytes(spec, block=block, tensor_parallel=tensor_parallel)
