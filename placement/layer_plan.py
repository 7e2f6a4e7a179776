"""Which layer does what: one mixer of tokens and one kind of MLP for each, read from a config.

Source: transformers 5.19 `configuration_*.py`, where each family fills in `layer_types` when its config has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from placement.config_keys import ConfigKeys
from placement.errors import UnsupportedModel
from placement.family import ExpertLayers, Experts, Family, Pattern, State


class Mixer(StrEnum):
    FULL = "full_attention"
    SLIDING = "sliding_attention"
    CHUNKED = "chunked_attention"
    STATE = "linear_attention"
    BESIDE = "hybrid"
    """Full attention and a state side by side."""
    NONE = "none"


class Mlp(StrEnum):
    DENSE = "dense"
    EXPERTS = "experts"
    NONE = "none"


MIXER_NAMES = {
    "full_attention": Mixer.FULL,
    "attention": Mixer.FULL,
    "sliding_attention": Mixer.SLIDING,
    "chunked_attention": Mixer.CHUNKED,
    "linear_attention": Mixer.STATE,
    "mamba": Mixer.STATE,
    "conv": Mixer.STATE,
}
"""Words that configs have in `layer_types` or `layers_block_type`."""
LETTERS = {
    "M": (Mixer.STATE, Mlp.NONE),
    "*": (Mixer.FULL, Mlp.NONE),
    "-": (Mixer.NONE, Mlp.DENSE),
    "E": (Mixer.NONE, Mlp.EXPERTS),
}
BLOCK_LETTERS = {"mamba": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One entry per layer in both."""

    mixers: tuple[Mixer, ...]
    mlps: tuple[Mlp, ...]

    def mixing(self, *kinds: Mixer) -> tuple[int, ...]:
        return tuple(layer for layer, mixer in enumerate(self.mixers) if mixer in kinds)

    def with_mlp(self, kind: Mlp) -> tuple[int, ...]:
        return tuple(layer for layer, mlp in enumerate(self.mlps) if mlp is kind)

    @property
    def attending(self) -> tuple[int, ...]:
        return self.mixing(Mixer.FULL, Mixer.SLIDING, Mixer.CHUNKED, Mixer.BESIDE)

    @property
    def with_state(self) -> tuple[int, ...]:
        return self.mixing(Mixer.STATE, Mixer.BESIDE)


def layer_plan(keys: ConfigKeys, family: Family) -> LayerPlan:
    """Raises: UnsupportedModel for a pattern that is malformed or of another length than the model."""
    if family.pattern is Pattern.LETTERS:
        return _lettered(keys)
    layers = keys.layers()
    mixers = _named(keys, layers) or tuple(_mixer(keys, family, layer) for layer in range(layers))
    if family.state is State.NONE and any(mixer is Mixer.STATE for mixer in mixers):
        raise UnsupportedModel("layer_types", "config.json has linear layers that its model_type is not known to have")
    if family.pattern is Pattern.ALL_STATE:
        return LayerPlan(mixers=mixers, mlps=(Mlp.NONE,) * layers)
    experts = family.experts if family.experts and _has_experts(keys, family.experts) else None
    mlps = tuple(Mlp.EXPERTS if experts and _is_sparse(keys, experts, layer) else Mlp.DENSE for layer in range(layers))
    return LayerPlan(mixers=mixers, mlps=mlps)


def _lettered(keys: ConfigKeys) -> LayerPlan:
    named = keys.words("layers_block_type")
    letters = "".join(BLOCK_LETTERS.get(name, "?") for name in named) or keys.text("hybrid_override_pattern")
    if not letters or set(letters) - set(LETTERS):
        known = "".join(LETTERS)
        raise UnsupportedModel("hybrid_override_pattern", f"config.json has layers {letters!r}; {known} are known")
    pairs = [LETTERS[letter] for letter in letters]
    return LayerPlan(mixers=tuple(mixer for mixer, _ in pairs), mlps=tuple(mlp for _, mlp in pairs))


def _named(keys: ConfigKeys, layers: int) -> tuple[Mixer, ...]:
    key = "layers_block_type" if keys.has("layers_block_type") else "layer_types"
    names = keys.words(key)
    if not names:
        return ()
    if len(names) < layers:
        raise UnsupportedModel(key, f"config.json has {len(names)} entries in {key} for {layers} layers")
    unknown = sorted(set(names) - set(MIXER_NAMES))
    if unknown:
        raise UnsupportedModel(key, f"config.json has the unknown kind of layer {unknown[0]!r}")
    return tuple(MIXER_NAMES[name] for name in names[:layers])


def _mixer(keys: ConfigKeys, family: Family, layer: int) -> Mixer:
    match family.pattern:
        case Pattern.FULL | Pattern.LETTERS:
            return Mixer.FULL
        case Pattern.ALL_STATE:
            return Mixer.STATE
        case Pattern.BESIDE:
            return Mixer.BESIDE
        case Pattern.UNIFORM | Pattern.EVERY_NTH_FULL | Pattern.LATER_SLIDING | Pattern.ROPE_CHUNKED:
            return _windowed(keys, family, layer)
        case Pattern.EVERY_NTH_ATTENTION | Pattern.PERIODIC_ATTENTION | Pattern.LISTED_ATTENTION:
            return Mixer.FULL if _attends(keys, family, layer) else Mixer.STATE
    assert_never(family.pattern)


def _windowed(keys: ConfigKeys, family: Family, layer: int) -> Mixer:
    if family.pattern is Pattern.ROPE_CHUNKED:
        rope = keys.numbers("no_rope_layers")  # 1 where there is rotary embedding, in spite of the name
        chunked = bool(rope[layer]) if rope and layer < len(rope) else (layer + 1) % family.window_every != 0
        return Mixer.CHUNKED if chunked and keys.has("attention_chunk_size") else Mixer.FULL
    if not keys.has("sliding_window"):
        return Mixer.FULL
    if family.pattern is Pattern.LATER_SLIDING:
        slides = keys.flag("use_sliding_window") and layer >= keys.number("max_window_layers", 28, least=0)
        return Mixer.SLIDING if slides else Mixer.FULL
    if family.pattern is Pattern.UNIFORM or (layer + 1) % _period(keys, family):
        return Mixer.SLIDING
    return Mixer.FULL


def _period(keys: ConfigKeys, family: Family) -> int:
    """Length of the repeated pattern; a word such as LLLG is one with its last layer full."""
    word = keys.text("sliding_window_pattern")
    return len(word) or keys.number("sliding_window_pattern", family.window_every)


def _attends(keys: ConfigKeys, family: Family, layer: int) -> bool:
    if family.pattern is Pattern.EVERY_NTH_ATTENTION:
        return (layer + 1) % keys.number("full_attention_interval", family.window_every) == 0
    if family.pattern is Pattern.PERIODIC_ATTENTION:
        period, offset = keys.number("attn_layer_period", 8), keys.number("attn_layer_offset", 4, least=0)
        return layer % period == offset
    return layer in (keys.numbers("attn_layer_indices") or ())


def _has_experts(keys: ConfigKeys, experts: Experts) -> bool:
    return keys.number(experts.number, 0 if experts.fewest else None, least=0) >= experts.fewest


def _is_sparse(keys: ConfigKeys, experts: Experts, layer: int) -> bool:
    named = keys.words("mlp_layer_types")
    if named:
        return named[min(layer, len(named) - 1)] == "sparse"
    match experts.where:
        case ExpertLayers.ALL:
            return True
        case ExpertLayers.AFTER_DENSE:
            first = keys.number("first_k_dense_replace", 0, least=0)
            return layer >= first and layer % keys.number("moe_layer_freq", 1) == 0
        case ExpertLayers.SPARSE_STEP:
            plain = keys.numbers("mlp_only_layers") or ()
            return layer not in plain and (layer + 1) % keys.number("decoder_sparse_step", 1) == 0
        case ExpertLayers.INTERLEAVED:
            listed = keys.numbers("moe_layers")
            step = keys.number("interleave_moe_layer_step", 1)
            return layer in listed if listed else (layer + 1) % step == 0
        case ExpertLayers.PERIODIC:
            period, offset = keys.number("expert_layer_period", 2), keys.number("expert_layer_offset", 1, least=0)
            return layer % period == offset
        case ExpertLayers.RANGE:
            first, last = keys.number("moe_layer_start_index", 1, least=0), keys.raw("moe_layer_end_index")
            last_layer = last if type(last) is int and last >= 0 else keys.layers() - 1
            return first <= layer <= last_layer and (layer + 1) % keys.number("moe_layer_interval", 1) == 0
    assert_never(experts.where)
