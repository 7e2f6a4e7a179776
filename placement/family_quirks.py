"""What a table cannot say of a family: entries of its config.json worked out from others, as more entries.

Each quirk takes the config and returns entries in our words that are laid over it; the builders then read them like
any other. Source: the same modules of transformers as the table's, and the published code of chatglm, mpt and qwen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

from placement.errors import UnsupportedModel

Config = Mapping[str, object]
Overlay = dict[str, object]


def overlay(model_type: str, config: Config) -> Overlay:
    """Entries to lay over `config`; none for a family without quirks."""
    quirk = QUIRKS.get(model_type)
    return quirk(config) if quirk is not None else {}


def _number(config: Config, key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise UnsupportedModel(key, f"config.json has {key} {value!r}; it must be a whole number of at least 0")
    return value


def _falcon(config: Config) -> Overlay:
    heads = _number(config, "num_attention_heads", _number(config, "n_head", 0))
    new = config.get("new_decoder_architecture") is True
    parallel = config.get("parallel_attn") is not False
    kv_heads = 1 if config.get("multi_query") is not False else heads
    norms = config.get("num_ln_in_parallel_attn") or (2 if new else 1)
    return {
        "num_attention_heads": heads,
        "num_hidden_layers": _number(config, "num_hidden_layers", _number(config, "n_layer", 0)),
        "num_key_value_heads": _number(config, "num_kv_heads", heads) if new else kv_heads,
        "norms_per_layer": norms if parallel else 2,
    }


def _stablelm(config: Config) -> Overlay:
    return {"norms_per_layer": 1 if config.get("use_parallel_residual") is True else 2}


def _multi_query(config: Config) -> Overlay:
    return {"num_key_value_heads": 1} if config.get("multi_query") is not False else {}


def _chatglm(config: Config) -> Overlay:
    if config.get("multi_query_attention") is not True:
        return {}
    return {"num_key_value_heads": _number(config, "multi_query_group_num", 1)}


def _opt(config: Config) -> Overlay:
    hidden = _number(config, "hidden_size", 0)
    embedded = _number(config, "word_embed_proj_dim", hidden)
    final = config.get("do_layer_norm_before") is not False and config.get("_remove_final_layer_norm") is not True
    return {"final_norm": final, **({"embedding_size": embedded} if embedded != hidden else {})}


def _lfm2(config: Config) -> Overlay:
    width = _number(config, "intermediate_size", _number(config, "block_ff_dim", 0))
    if config.get("block_auto_adjust_ff_dim") is not False:
        width = int(2 * width / 3)
        factor, multiple = config.get("block_ffn_dim_multiplier", 1.0), _number(config, "block_multiple_of", 256)
        if isinstance(factor, int | float):
            width = multiple * ceil(int(factor * width) / max(1, multiple))
    return {"intermediate_size": width}


def _hunyuan(config: Config) -> Overlay:
    """Some of its entries are lists with one value per layer; all alike in what was published."""
    found: Overlay = {"num_shared_expert": 1}
    for key in ("num_experts", "num_shared_expert", "moe_topk", "moe_intermediate_size"):
        value = config.get(key)
        if isinstance(value, list):
            if len(set(map(str, value))) != 1:
                raise UnsupportedModel(key, f"config.json has {key} that differs between layers; that is not counted")
            value = value[0]
        if value is not None:
            found[key] = value
    if "moe_intermediate_size" in found:
        found["intermediate_size"] = found.pop("moe_intermediate_size")
    return found


def _dbrx(config: Config) -> Overlay:
    attention, ffn = config.get("attn_config"), config.get("ffn_config")
    if not isinstance(attention, Mapping) or not isinstance(ffn, Mapping):
        raise UnsupportedModel("attn_config", "config.json has no attn_config and ffn_config")
    kept = ("ffn_hidden_size", "moe_num_experts", "moe_top_k")
    return {"num_key_value_heads": attention.get("kv_n_heads"), **{key: ffn.get(key) for key in kept}}


def _mpt(config: Config) -> Overlay:
    attention = config.get("attn_config")
    heads = _number(config, "n_heads", 0)
    hidden, ratio = _number(config, "d_model", 0), config.get("expansion_ratio", 4)
    if config.get("no_bias") is False or not isinstance(ratio, int | float):
        raise UnsupportedModel("no_bias", "config.json has an mpt with biases or an odd expansion_ratio; not counted")
    grouped = attention.get("kv_n_heads") if isinstance(attention, Mapping) else None
    return {"num_key_value_heads": grouped or heads, "intermediate_size": int(hidden * ratio)}


def _qwen(config: Config) -> Overlay:
    """Its `intermediate_size` is that of gate and up together."""
    return {"intermediate_size": _number(config, "intermediate_size", 0) // 2}


def _mamba(config: Config) -> Overlay:
    """`expand` is stated beside a width that counts (falcon-mamba has 16 where 2 is meant)."""
    hidden = _number(config, "hidden_size", 0)
    width = _number(config, "intermediate_size", _number(config, "expand", 2) * hidden)
    rank = config.get("time_step_rank", "auto")
    return {
        "state_channels": width,
        "state_dim": _number(config, "state_size", 16),
        "state_rank": ceil(hidden / 16) if rank == "auto" else rank,
        "mamba_d_conv": _number(config, "conv_kernel", 4),
        "mamba_conv_bias": config.get("use_conv_bias") is not False,
        "mamba_proj_bias": config.get("use_bias") is True,
    }


def _jamba(config: Config) -> Overlay:
    hidden = _number(config, "hidden_size", 0)
    rank = config.get("mamba_dt_rank", "auto")
    return {
        "state_channels": _number(config, "mamba_expand", 2) * hidden,
        "state_dim": _number(config, "mamba_d_state", 16),
        "state_rank": ceil(hidden / 16) if rank == "auto" else rank,
        "state_norms": True,
    }


def _mamba2(config: Config) -> Overlay:
    return {"state_channels": _number(config, "expand", 2) * _number(config, "hidden_size", 0)}


def _mamba2_beside_attention(config: Config) -> Overlay:
    width = _number(config, "mamba_expand", 2) * _number(config, "hidden_size", 0)
    return {"state_channels": _number(config, "mamba_d_ssm", width)}


def _falcon_h1(config: Config) -> Overlay:
    return _mamba2_beside_attention(config) | {"state_norm": config.get("mamba_rms_norm") is True}


def _nemotron_h(config: Config) -> Overlay:
    width = _number(config, "mamba_num_heads", 0) * _number(config, "mamba_head_dim", 0)
    return {"state_channels": width}


QUIRKS: dict[str, Callable[[Config], Overlay]] = {
    "bamba": _mamba2_beside_attention,
    "chatglm": _chatglm,
    "dbrx": _dbrx,
    "falcon": _falcon,
    "falcon_h1": _falcon_h1,
    "falcon_mamba": _mamba,
    "gpt_bigcode": _multi_query,
    "granitemoehybrid": _mamba2_beside_attention,
    "hunyuan_v1_moe": _hunyuan,
    "jamba": _jamba,
    "lfm2": _lfm2,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "mpt": _mpt,
    "nemotron_h": _nemotron_h,
    "opt": _opt,
    "qwen": _qwen,
    "stablelm": _stablelm,
}
