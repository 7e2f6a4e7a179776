"""How vLLM lays a model's cache out: kinds of layers, groups of them that share a pool of blocks, blocks of a sequence.

A block of the pool holds one page of every layer of one group; all groups take blocks of the same size.
Source: vLLM 0.32 `v1/kv_cache_interface.py` (pages), `v1/core/kv_cache_utils.py` (groups), `platforms/interface.py`
(blocks of models that carry a state).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil

from placement.modules import kv_heads_here
from placement.state_modules import StateShape, state_bytes

STATE_BLOCKS = 2
"""Blocks of one state layer for one sequence with prefix caching, vLLM's default: the state and its last checkpoint."""
CONCURRENT_BATCHES = 2
"""Batches in flight with asynchronous scheduling: blocks behind a window are freed that much later."""
SIMILAR = 1.5
"""Kinds of layers whose numbers are nearer than this are padded to one group each."""
INDEX_SCALE_GROUP = 128
"""The key that sparse attention is chosen by: one byte per element, and a float32 per so many elements."""
FLOAT32_BYTES = 4


class CacheKind(StrEnum):
    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    LATENT = "latent"
    STATE = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """`layers` layers alike. `window` counts tokens that a sliding or chunked layer sees.

    `elements` are those of one token: of one KV head, keys and values together, or of the latent (`kv_heads` 0, the
    same on every rank). `fixed_bytes` per token come on top, whatever the format of the cache.
    """

    kind: CacheKind
    layers: int
    kv_heads: int = 0
    elements: int = 0
    fixed_bytes: int = 0
    window: int | None = None
    state: StateShape | None = None

    def token_bytes(self, *, element_bytes: int, tensor_parallel: int) -> int:
        """Bytes of one token in one layer on each rank; 0 for a state."""
        heads = kv_heads_here(self.kv_heads, tensor_parallel) if self.kv_heads else 1
        return heads * self.elements * element_bytes + self.fixed_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers that share block tables. `block_tokens` 0: a state, which has no tokens."""

    kind: CacheKind
    layers: int
    block_tokens: int
    window: int | None

    def blocks(self, *, tokens: int, batched_tokens: int, alone: bool) -> int:
        """Blocks that one sequence of `tokens` tokens holds at most, while `batched_tokens` are worked on at a time."""
        in_flight = CONCURRENT_BATCHES * batched_tokens
        match self.kind:
            case CacheKind.FULL | CacheKind.LATENT:
                return ceil(tokens / self.block_tokens)
            case CacheKind.SLIDING:
                held = min((self.window or tokens) - 1 + in_flight, tokens)
                return ceil(held / self.block_tokens) + 1  # a window need not begin with a block
            case CacheKind.CHUNKED:
                return ceil(min((self.window or tokens) + in_flight, tokens) / self.block_tokens)
            case CacheKind.STATE:
                return 1 if alone else STATE_BLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayout:
    """`block_tokens` are those of one block of an attention layer, 0 without any."""

    groups: tuple[CacheGroup, ...]
    block_bytes: int
    block_tokens: int

    def sequence_blocks(self, *, tokens: int, batched_tokens: int) -> int:
        alone = len(self.groups) == 1
        return sum(group.blocks(tokens=tokens, batched_tokens=batched_tokens, alone=alone) for group in self.groups)


def cache_layout(
    caches: tuple[LayerCache, ...],
    *,
    block_tokens: int,
    element_bytes: int,
    state_dtype_bytes: int,
    tensor_parallel: int = 1,
) -> CacheLayout:
    """Groups of equal pages. `block_tokens` is what the engine starts from; a state may need larger blocks."""
    sizes = [one.token_bytes(element_bytes=element_bytes, tensor_parallel=tensor_parallel) for one in caches]
    states = [
        state_bytes(one.state, dtype_bytes=state_dtype_bytes, tensor_parallel=tensor_parallel) if one.state else 0
        for one in caches
    ]
    if max(states, default=0) and max(sizes, default=0):
        block_tokens = block_tokens * ceil(max(states) / (block_tokens * max(sizes)))
    attending = [one for one in caches if one.kind is not CacheKind.STATE]
    if not attending:
        return _states_alone(caches, states)
    if len(caches) == 1 or all(one.kind in (CacheKind.FULL, CacheKind.LATENT) for one in caches):
        return _one_group(caches, sizes, block_tokens)
    return _equal_groups(caches, sizes, block_tokens)


def _states_alone(caches: tuple[LayerCache, ...], states: list[int]) -> CacheLayout:
    layers = sum(one.layers for one in caches)
    block_bytes = sum(one.layers * size for one, size in zip(caches, states, strict=True))
    groups = (CacheGroup(kind=CacheKind.STATE, layers=layers, block_tokens=0, window=None),)
    return CacheLayout(groups=groups, block_bytes=block_bytes, block_tokens=0)


def _one_group(caches: tuple[LayerCache, ...], sizes: list[int], block_tokens: int) -> CacheLayout:
    """All layers need the same number of tokens; pages may differ in size."""
    layers = sum(one.layers for one in caches)
    token_bytes = sum(one.layers * size for one, size in zip(caches, sizes, strict=True))
    group = CacheGroup(kind=caches[0].kind, layers=layers, block_tokens=block_tokens, window=caches[0].window)
    return CacheLayout(groups=(group,), block_bytes=token_bytes * block_tokens, block_tokens=block_tokens)


def _equal_groups(caches: tuple[LayerCache, ...], sizes: list[int], block_tokens: int) -> CacheLayout:
    """As many groups of equally many layers as it takes; a kind's last is padded. Smaller pages take more tokens."""
    page = max(sizes) * block_tokens
    fewest, most = min(one.layers for one in caches), max(one.layers for one in caches)
    in_group = most if most < fewest * SIMILAR else fewest
    groups: list[CacheGroup] = []
    for one, size in zip(caches, sizes, strict=True):
        whole = size and page % (size * block_tokens) == 0
        tokens = page // size if whole else block_tokens if size else 0
        group = CacheGroup(kind=one.kind, layers=in_group, block_tokens=tokens, window=one.window)
        groups += [group] * ceil(one.layers / in_group)
    return CacheLayout(groups=tuple(groups), block_bytes=in_group * page, block_tokens=block_tokens)


def merged(caches: tuple[LayerCache, ...]) -> tuple[LayerCache, ...]:
    """Layers alike in one entry, in the order they first come; entries without layers are left out."""
    found: dict[LayerCache, int] = {}
    for one in caches:
        key = replace(one, layers=0)
        found[key] = found.get(key, 0) + one.layers
    return tuple(replace(key, layers=layers) for key, layers in found.items() if layers)
