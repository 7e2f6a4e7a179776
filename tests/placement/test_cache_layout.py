"""How caches are laid out: pages, groups and blocks are those that vLLM makes."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.cache_layout import CacheKind, CacheLayout, LayerCache, cache_layout
from placement.kv_cache import kv_bytes_per_token, kv_cache_bytes, layout_of, state_bytes_per_sequence
from placement.model_spec import ModelSpec, model_spec
from tests.placement.published import families, family_config

LENGTH = 8192
BATCHED = 8192


def spec_of(name: str, **changes: Any) -> ModelSpec:
    return model_spec(family_config(name) | changes)


def full(layers: int, *, heads: int = 8) -> LayerCache:
    return LayerCache(kind=CacheKind.FULL, layers=layers, kv_heads=heads, elements=256)


def sliding(layers: int, *, window: int = 128, heads: int = 8) -> LayerCache:
    return LayerCache(kind=CacheKind.SLIDING, layers=layers, kv_heads=heads, elements=256, window=window)


def laid_out(*caches: LayerCache) -> CacheLayout:
    return cache_layout(caches, block_tokens=16, element_bytes=2, state_dtype_bytes=2)


class TestBytesOfAToken:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("deepseek-v3", 61 * 576 * 2),  # one latent and one rotary key, whatever the heads
            ("deepseek-v3.2", 61 * (576 * 2 + 132)),  # and the key that sparse attention is chosen by, in FP8
            ("gemma-3-27b", 62 * 2 * 16 * 128 * 2),
            ("jamba-v0.1", 4 * 2 * 8 * 128 * 2),  # four layers of 32 attend
            ("falcon-7b", 32 * 2 * 64 * 2),  # one head for all queries
            ("mamba-2.8b", 0),
        ],
    )
    def test_are_those_of_every_layer_that_attends(self, name: str, expected: int) -> None:
        assert kv_bytes_per_token(spec_of(name)) == expected

    def test_a_latent_is_the_same_on_every_rank(self) -> None:
        spec = spec_of("deepseek-v3")
        assert kv_bytes_per_token(spec, tensor_parallel=8) == kv_bytes_per_token(spec)

    def test_eight_bit_caches_are_half_as_large(self) -> None:
        spec, small = spec_of("llama-2-7b"), model_spec(family_config("llama-2-7b"), kv_dtype="fp8")
        assert 2 * kv_bytes_per_token(small) == kv_bytes_per_token(spec)


class TestState:
    @pytest.mark.parametrize(
        ("name", "one_layer", "layers"),
        [
            ("qwen3-next-80b-a3b", 8192 * 3 * 2 + 32 * 128 * 128 * 2, 36),
            ("mamba-2.8b", 5120 * 3 * 2 + 5120 * 16 * 2, 64),
            ("mamba2-codestral-7b", (8192 + 2 * 8 * 128) * 3 * 2 + 128 * 64 * 128 * 2, 64),
            ("nemotron-h-8b", (8192 + 2 * 8 * 128) * 3 * 2 + 128 * 64 * 128 * 4, 24),  # carried on in float32
        ],
    )
    def test_is_a_convolution_and_what_is_carried_on(self, name: str, one_layer: int, layers: int) -> None:
        assert state_bytes_per_sequence(spec_of(name)) == one_layer * layers

    def test_blocks_of_attention_grow_until_a_state_fits_a_page(self) -> None:
        """vLLM logs 544 tokens for this model."""
        assert layout_of(spec_of("qwen3-next-80b-a3b"), block=16).block_tokens == 544


class TestGroups:
    def test_a_window_of_its_own_is_a_group_of_its_own(self) -> None:
        layout = laid_out(full(12), sliding(12))
        assert [group.layers for group in layout.groups] == [12, 12]
        assert layout.block_bytes == 12 * 16 * 8 * 256 * 2

    def test_many_of_a_kind_are_as_many_groups_as_it_takes(self) -> None:
        assert [group.layers for group in laid_out(full(10), sliding(52)).groups] == [10] * 7

    def test_nearly_as_many_are_padded_to_one_group_each(self) -> None:
        assert [group.layers for group in laid_out(full(13), sliding(12)).groups] == [13, 13]

    def test_smaller_pages_hold_more_tokens(self) -> None:
        assert [group.block_tokens for group in laid_out(full(4), sliding(4, heads=4)).groups] == [16, 32]


class TestSequences:
    @given(tokens=st.integers(1, 10**6), window=st.integers(1, 10**5))
    def test_a_window_never_takes_more_than_full_attention_and_a_block(self, tokens: int, window: int) -> None:
        bounded, whole = laid_out(sliding(4, window=window)), laid_out(full(4))
        most = whole.sequence_blocks(tokens=tokens, batched_tokens=BATCHED) + 1
        assert bounded.sequence_blocks(tokens=tokens, batched_tokens=BATCHED) <= most

    @given(tokens=st.integers(40_000, 10**6))
    def test_past_its_window_a_sequence_takes_no_more(self, tokens: int) -> None:
        layout = laid_out(sliding(4))
        assert layout.sequence_blocks(tokens=tokens, batched_tokens=BATCHED) == ceil((127 + 2 * BATCHED) / 16) + 1

    @given(tokens=st.integers(40_000, 10**6))
    def test_the_bound_finds_a_cache_that_forgets_nothing(self, tokens: int) -> None:
        layout = laid_out(full(4))
        assert layout.sequence_blocks(tokens=tokens, batched_tokens=BATCHED) > ceil((127 + 2 * BATCHED) / 16) + 1

    def test_no_tokens_take_nothing(self) -> None:
        assert kv_cache_bytes(spec_of("gemma-3-27b"), tokens=0) == 0


@pytest.mark.slow
class TestAgainstVllm:
    @pytest.mark.parametrize("tensor_parallel", [1, 2])
    @pytest.mark.parametrize("name", families())
    def test_groups_blocks_and_bytes_are_those_of_vllm(self, name: str, tensor_parallel: int) -> None:
        spec = spec_of(name)
        layout = layout_of(spec, block=16, tensor_parallel=tensor_parallel)
        groups, block_bytes = vllm_groups(spec, layout, tensor_parallel)
        assert (len(layout.groups), layout.block_bytes) == (len(groups), block_bytes)
        assert layout.sequence_blocks(tokens=LENGTH, batched_tokens=BATCHED) == vllm_blocks(layout, groups)


def vllm_groups(spec: ModelSpec, layout: CacheLayout, tensor_parallel: int) -> tuple[list[Any], int]:
    """The groups that vLLM's own code makes of these layers, and the bytes of a block of the pool."""
    from vllm.v1.core import kv_cache_utils as utils
    from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

    layers = {f"layer {number}": one for number, one in enumerate(vllm_layers(spec, layout, tensor_parallel))}
    if utils.is_kv_cache_spec_uniform(layers):
        groups = utils._get_kv_cache_groups_uniform_spec(layers)
    elif uniform := UniformTypeKVCacheSpecs.from_specs(layers):
        groups = utils._get_kv_cache_groups_uniform_type(uniform)
        return groups, groups[0].kv_cache_spec.page_size_bytes
    else:
        groups = utils._get_kv_cache_groups_uniform_page_size(utils.unify_kv_cache_spec_page_size(layers))
    in_group = max(len(group.layer_names) for group in groups)
    return groups, in_group * groups[0].kv_cache_spec.page_size_bytes


def vllm_layers(spec: ModelSpec, layout: CacheLayout, tensor_parallel: int) -> Iterator[Any]:
    import torch
    from vllm.v1 import kv_cache_interface as interface

    width = {"block_size": layout.block_tokens or 16, "dtype": torch.bfloat16}
    page = layout.block_tokens * max(
        one.token_bytes(element_bytes=2, tensor_parallel=tensor_parallel) for one in spec.caches
    )
    states = sum(one.layers for one in spec.caches if one.kind is CacheKind.STATE)
    for one in (cache for cache in spec.caches for _ in range(cache.layers)):
        heads = {"num_kv_heads": max(1, one.kv_heads // tensor_parallel), "head_size": one.elements // 2}
        match one.kind:
            case CacheKind.FULL:
                yield interface.FullAttentionSpec(**heads, **width)
            case CacheKind.SLIDING:
                yield interface.SlidingWindowSpec(sliding_window=one.window, **heads, **width)
            case CacheKind.CHUNKED:
                yield interface.ChunkedLocalAttentionSpec(attention_chunk_size=one.window, **heads, **width)
            case CacheKind.LATENT if one.fixed_bytes:
                index = {"block_size": layout.block_tokens, "dtype": torch.uint8}
                yield interface.MLAAttentionSpec(num_kv_heads=1, head_size=one.fixed_bytes, **index)
            case CacheKind.LATENT:
                yield interface.MLAAttentionSpec(num_kv_heads=1, head_size=one.elements, **width)
            case CacheKind.STATE:
                held = state_bytes_per_sequence(spec, tensor_parallel=tensor_parallel) // states
                yield interface.MambaSpec(
                    shapes=((held,),), dtypes=(torch.uint8,), block_size=16, page_size_padded=page or None
                )


def vllm_blocks(layout: CacheLayout, groups: list[Any]) -> int:
    mode = "align" if layout.block_tokens else "none"
    setting = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=LENGTH),
        max_in_flight_tokens=2 * BATCHED,
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, prefill_context_parallel_size=1),
        cache_config=SimpleNamespace(mamba_cache_mode=mode),
    )
    specs = [group.kv_cache_spec for group in groups]
    return sum(ceil(spec.max_memory_usage_bytes(setting) / spec.page_size_bytes) for spec in specs)
