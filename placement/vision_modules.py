"""Modules of the picture side of the models whose towers are known: Gemma 3, Llama 4, Mistral 3, Qwen 2 to 3.5.

Source: transformers 5.19 `modeling_{siglip,gemma3,llama4,pixtral,mistral3,qwen2_vl,qwen2_5_vl,qwen3_vl}.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from placement.config_keys import ConfigKeys
from placement.modules import Module, Role

TOWER = "vision_tower"


def vision_modules(
    model_type: str, vision: Mapping[str, object], outer: ConfigKeys, *, text_width: int
) -> tuple[Module, ...] | None:
    """None for a tower that is not known. `outer` are the entries beside `vision_config`."""
    tower = TOWERS.get(model_type)
    return tower(ConfigKeys(vision), outer, text_width) if tower is not None else None


def _gemma3(vision: ConfigKeys, outer: ConfigKeys, text_width: int) -> tuple[Module, ...]:
    hidden, patch = vision.number("hidden_size"), vision.number("patch_size")
    places = (vision.number("image_size") // patch) ** 2
    return (
        _once("patch_embedding", vision.number("num_channels", 3) * patch * patch, hidden, bias=hidden),
        _once("position_embedding", places, hidden),
        *_layers(vision, biased=True, gated=False, norm_bias=True),
        _once("post_layernorm", 2, hidden),
        _once("mm_input_projection", text_width, hidden),
        _once("mm_soft_emb_norm", 1, hidden),
    )


def _llama4(vision: ConfigKeys, outer: ConfigKeys, text_width: int) -> tuple[Module, ...]:
    hidden, patch = vision.number("hidden_size"), vision.number("patch_size")
    places = (vision.number("image_size") // patch) ** 2 + 1
    into, out = vision.number("projector_input_dim"), vision.number("projector_output_dim")
    return (
        _once("class_embedding", 1, hidden),
        _once("positional_embedding", places, hidden),
        _once("patch_embedding", vision.number("num_channels", 3) * patch * patch, hidden),
        *_layers(vision, biased=True, gated=False, norm_bias=True),
        _once("norms", 4, hidden),
        _once("adapter.fc1", into, vision.number("intermediate_size")),
        _once("adapter.fc2", out, out),
        _once("linear_1", text_width, vision.number("vision_output_dim")),
    )


def _mistral3(vision: ConfigKeys, outer: ConfigKeys, text_width: int) -> tuple[Module, ...]:
    hidden, patch = vision.number("hidden_size"), vision.number("patch_size")
    merged = outer.number("spatial_merge_size", 2) ** 2 * hidden
    bias = text_width if outer.flag("multimodal_projector_bias") else 0
    return (
        _once("patch_conv", vision.number("num_channels", 3) * patch * patch, hidden),
        _once("ln_pre", 1, hidden),
        *_layers(vision, biased=False, gated=True, norm_bias=False),
        _once("projector.norm", 1, hidden),
        _once("projector.merging_layer", hidden, merged),
        _once("projector.linear_1", text_width, hidden, bias=bias),
        _once("projector.linear_2", text_width, text_width, bias=bias),
    )


def _qwen2_vl(vision: ConfigKeys, outer: ConfigKeys, text_width: int) -> tuple[Module, ...]:
    """Here `hidden_size` is the width of the text, and the tower's own is `embed_dim`."""
    hidden, merge = vision.number("embed_dim"), vision.number("spatial_merge_size", 2) ** 2
    width = hidden * vision.number("mlp_ratio", 4)
    return (
        _once("patch_embed", _patch(vision), hidden),
        *_blocks(vision.number("depth"), hidden, width, biased=True, gated=False, norm_bias=True),
        _once("merger.ln_q", 2, hidden),
        *_merger("merger", hidden * merge, text_width),
    )


def _qwen2_5_vl(vision: ConfigKeys, outer: ConfigKeys, text_width: int) -> tuple[Module, ...]:
    hidden, merge = vision.number("hidden_size"), vision.number("spatial_merge_size", 2) ** 2
    width = vision.number("intermediate_size")
    return (
        _once("patch_embed", _patch(vision), hidden),
        *_blocks(vision.number("depth"), hidden, width, biased=True, gated=True, norm_bias=False),
        _once("merger.ln_q", 1, hidden),
        *_merger("merger", hidden * merge, vision.number("out_hidden_size", text_width)),
    )


def _qwen3_vl(vision: ConfigKeys, outer: ConfigKeys, text_width: int) -> tuple[Module, ...]:
    """A merger at the end, and one for each layer whose features go straight into the text."""
    hidden, merge = vision.number("hidden_size"), vision.number("spatial_merge_size", 2) ** 2
    out, width = vision.number("out_hidden_size", text_width), vision.number("intermediate_size")
    deep = len(vision.numbers("deepstack_visual_indexes") or ())
    return (
        _once("patch_embed", _patch(vision), hidden, bias=hidden),
        _once("pos_embed", vision.number("num_position_embeddings", 2304), hidden),
        *_blocks(vision.number("depth"), hidden, width, biased=True, gated=False, norm_bias=True),
        _once("merger.norm", 2, hidden),
        *_merger("merger", hidden * merge, out),
        *((_once("deepstack.norm", 2, hidden * merge, copies=deep),) if deep else ()),
        *(_merger("deepstack", hidden * merge, out, copies=deep) if deep else ()),
    )


def _patch(vision: ConfigKeys) -> int:
    """Numbers in one patch of pixels over time."""
    channels = vision.number("in_chans" if vision.has("in_chans") else "in_channels", 3)
    return channels * vision.number("patch_size") ** 2 * vision.number("temporal_patch_size", 2)


def _merger(name: str, merged: int, out: int, *, copies: int = 1) -> tuple[Module, ...]:
    return (
        _once(f"{name}.fc1", merged, merged, bias=merged, copies=copies),
        _once(f"{name}.fc2", out, merged, bias=out, copies=copies),
    )


TOWERS: dict[str, Callable[[ConfigKeys, ConfigKeys, int], tuple[Module, ...]]] = {
    "gemma3": _gemma3,
    "llama4": _llama4,
    "mistral3": _mistral3,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_vl": _qwen2_vl,
    "qwen3_5": _qwen3_vl,
    "qwen3_5_moe": _qwen3_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
}


def _layers(vision: ConfigKeys, *, biased: bool, gated: bool, norm_bias: bool) -> tuple[Module, ...]:
    hidden, width = vision.number("hidden_size"), vision.number("intermediate_size")
    return _blocks(vision.layers(), hidden, width, biased=biased, gated=gated, norm_bias=norm_bias)


def _blocks(layers: int, hidden: int, width: int, *, biased: bool, gated: bool, norm_bias: bool) -> tuple[Module, ...]:
    """The tower's own layers, counted whole on every rank; they are small."""
    wide = (2 if gated else 1) * width
    return (
        _once("attention", 4 * hidden, hidden, bias=4 * hidden if biased else 0, copies=layers),
        _once("mlp.up", wide, hidden, bias=wide if biased else 0, copies=layers),
        _once("mlp.down", hidden, width, bias=hidden if biased else 0, copies=layers),
        _once("layer_norms", 4 if norm_bias else 2, hidden, copies=layers),
    )


def _once(name: str, rows: int, columns: int, *, bias: int = 0, copies: int = 1) -> Module:
    return Module(name=f"{TOWER}.{name}", rows=rows, columns=columns, bias=bias, copies=copies, role=Role.OTHER)
