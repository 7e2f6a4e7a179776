"""Modules of the picture side of the models whose towers are known: Gemma 3, Llama 4, Mistral 3.

Source: transformers 5.19 `modeling_{siglip,gemma3,llama4,pixtral,mistral3}.py`.
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


TOWERS: dict[str, Callable[[ConfigKeys, ConfigKeys, int], tuple[Module, ...]]] = {
    "gemma3": _gemma3,
    "llama4": _llama4,
    "mistral3": _mistral3,
}


def _layers(vision: ConfigKeys, *, biased: bool, gated: bool, norm_bias: bool) -> tuple[Module, ...]:
    """The tower's own layers, counted whole on every rank; they are small."""
    hidden, width, layers = vision.number("hidden_size"), vision.number("intermediate_size"), vision.layers()
    wide = 2 if gated else 1
    return (
        _once("attention", 4 * hidden, hidden, bias=4 * hidden if biased else 0, copies=layers),
        _once("mlp.up", wide * width, hidden, bias=width if biased else 0, copies=layers),
        _once("mlp.down", hidden, width, bias=hidden if biased else 0, copies=layers),
        _once("layer_norms", 4 if norm_bias else 2, hidden, copies=layers),
    )


def _once(name: str, rows: int, columns: int, *, bias: int = 0, copies: int = 1) -> Module:
    return Module(name=f"{TOWER}.{name}", rows=rows, columns=columns, bias=bias, copies=copies, role=Role.OTHER)
