"""The table of families: facts by `model_type`. No code but the table; what a fact does is in the builders.

Source: transformers 5.19 `models/*/modeling_*.py` and `configuration_*.py`, each row held to it by a test that counts
the parameters of the real model without memory; names in the checkpoints of families that ship their own code
(internlm, internlm2, internlm3, baichuan, minicpm, exaone, chatglm, qwen) are from their published `modeling_*.py`.
"""

from __future__ import annotations

from dataclasses import replace

from placement.family import ExpertLayers, Experts, Family, Norm, Pattern, QkNorm, State

_LLAMA = Family(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias")
_PLAIN = Family()
_GPT_NAMES = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}
_GPT2 = Family(
    names=_GPT_NAMES,
    norm=Norm.WEIGHT_AND_BIAS,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    gated=False,
    fused_qkv=True,
    positions=0,
    tied=True,
    dense_width_factor=4,
)
_GPTJ = replace(_GPT2, norms=1, qkv_bias=False, o_bias=False, head_bias=True, positions=None, tied=False)
_GEMMA = Family(qkv_bias="attention_bias", o_bias="attention_bias", tied=True)
_GEMMA3 = replace(
    _GEMMA,
    norms=4,
    qk_norm=QkNorm.HEAD,
    pattern=Pattern.EVERY_NTH_FULL,
    window_every=6,
    defaults={
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
)
_QWEN2 = Family(qkv_bias=True, pattern=Pattern.LATER_SLIDING)
_QWEN3 = Family(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm=QkNorm.HEAD, pattern=Pattern.LATER_SLIDING)
_QWEN_EXPERTS = Experts(where=ExpertLayers.SPARSE_STEP)
_QWEN_SHARED = replace(_QWEN_EXPERTS, shared_width="shared_expert_intermediate_size", shared_gate=True)
_QWEN3_NEXT = replace(
    _QWEN3, output_gate=True, pattern=Pattern.EVERY_NTH_ATTENTION, window_every=4, state=State.GATED_DELTA,
    experts=_QWEN_SHARED, next_layers="mtp_num_hidden_layers", next_layers_unstated=1, next_ends=False,
)  # fmt: skip
_QWEN3_5 = replace(_QWEN3_NEXT, experts=None, state_dtype=("mamba_ssm_dtype", "auto"), next_layers_unstated=0)
_WIDE_EXPERTS = Experts(number="num_local_experts", width="intermediate_size")
_DEEPSEEK_EXPERTS = Experts(number="n_routed_experts", shared="n_shared_experts", where=ExpertLayers.AFTER_DENSE)
_DEEPSEEK = Family(
    qkv_bias="attention_bias", o_bias="attention_bias", latent=True, experts=_DEEPSEEK_EXPERTS,
    next_layers="num_nextn_predict_layers",
)  # fmt: skip
_DEEPSEEK_V3 = replace(_DEEPSEEK, experts=replace(_DEEPSEEK_EXPERTS, correction_bias=True))
_GLM4_MOE = replace(
    _DEEPSEEK_V3, latent=False, o_bias=False, qk_norm=QkNorm.HEAD, qk_norm_flag="use_qk_norm"
)  # fmt: skip
_OLMO2 = Family(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm=QkNorm.WIDTH)
_GRANITE_MOE = Family(qkv_bias="attention_bias", o_bias="attention_bias", experts=_WIDE_EXPERTS, tied=True)
_GRANITE_SHARED = replace(
    _GRANITE_MOE, experts=replace(_WIDE_EXPERTS, shared_width="shared_intermediate_size", fewest=1)
)
_COHERE = Family(
    norms=1, qkv_bias="attention_bias", o_bias="attention_bias", qk_norm=QkNorm.WIDTH, qk_norm_flag="use_qk_norm",
    tied=True,
)  # fmt: skip
_MAMBA = Family(names={"state_dim": "state_size"}, norms=1, pattern=Pattern.ALL_STATE, state=State.MAMBA1, tied=True)
_LLAMA4 = Family(
    qkv_bias="attention_bias", o_bias="attention_bias", pattern=Pattern.ROPE_CHUNKED, window_every=4,
    dense_width="intermediate_size_mlp",
    experts=Experts(
        number="num_local_experts", width="intermediate_size", shared_width="intermediate_size",
        where=ExpertLayers.INTERLEAVED,
    ),
    defaults={"attention_chunk_size": 8192, "head_dim": 128, "vocab_size": 202048, "num_key_value_heads": 8},
)  # fmt: skip
_ERNIE = Family(qkv_bias="use_bias", o_bias="use_bias", mlp_bias="use_bias", tied=True)
_HUNYUAN = Family(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm=QkNorm.HEAD)
_PHI3 = Family(fused_qkv=True, fused_gate_up=True, pattern=Pattern.UNIFORM)
_BAMBA = Family(
    qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias",
    pattern=Pattern.LISTED_ATTENTION, state=State.MAMBA2,
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "apertus": Family(
        qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias", gated=False, qk_norm=QkNorm.HEAD,
        activation_params=2,
    ),
    "arcee": replace(_LLAMA, gated=False),
    "baichuan": Family(fused_qkv=True),
    "bamba": _BAMBA,
    "bloom": replace(
        _GPT2, names=_GPT_NAMES | {"hidden_size": "n_embed"}, positions=None, embedding_norm=True
    ),
    "chatglm": Family(
        names={
            "num_hidden_layers": "num_layers",
            "intermediate_size": "ffn_hidden_size",
            "head_dim": "kv_channels",
            "vocab_size": "padded_vocab_size",
            "max_position_embeddings": "seq_length",
        },
        qkv_bias="add_qkv_bias", o_bias="add_bias_linear", mlp_bias="add_bias_linear",
        fused_qkv=True, fused_gate_up=True,
    ),
    "codegen": _GPTJ,
    "cohere": _COHERE,
    "cohere2": replace(
        _COHERE, qk_norm=QkNorm.NONE, pattern=Pattern.EVERY_NTH_FULL, window_every=4, window_extra=1,
    ),
    "dbrx": Family(
        names={
            "num_hidden_layers": "n_layers",
            "hidden_size": "d_model",
            "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len",
        },
        fused_qkv=True,
        experts=Experts(number="moe_num_experts", width="ffn_hidden_size", per_token="moe_top_k"),  # noqa: S106
    ),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _DEEPSEEK_V3,
    "dots1": replace(_DEEPSEEK_V3, latent=False, qk_norm=QkNorm.HEAD),
    "ernie4_5": _ERNIE,
    "ernie4_5_moe": replace(
        _ERNIE,
        experts=Experts(
            number="moe_num_experts", per_token="moe_k", shared="moe_num_shared_experts",  # noqa: S106
            where=ExpertLayers.RANGE, correction_bias=True,
        ),
    ),
    "exaone": Family(names={"num_hidden_layers": "num_layers"}),
    "exaone4": Family(qk_norm=QkNorm.HEAD, pattern=Pattern.EVERY_NTH_FULL, window_every=4),
    "falcon": Family(
        names={"intermediate_size": "ffn_hidden_size"}, norm=Norm.WEIGHT_AND_BIAS, qkv_bias="bias", o_bias="bias",
        mlp_bias="bias", gated=False, fused_qkv=True, tied=True, dense_width_factor=4,
    ),
    "falcon_h1": Family(
        qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias", pattern=Pattern.BESIDE,
        state=State.MAMBA2,
    ),
    "falcon_mamba": _MAMBA,
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, norms=4, pattern=Pattern.EVERY_NTH_FULL, window_every=2),
    "gemma3_text": _GEMMA3,
    "glm": Family(qkv_bias="attention_bias", fused_gate_up=True),
    "glm4": Family(norms=4, qkv_bias="attention_bias", fused_gate_up=True),
    "glm4_moe": _GLM4_MOE,
    "glm4_moe_lite": _DEEPSEEK_V3,
    "glm_moe_dsa": _DEEPSEEK_V3,
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": replace(
        _GPT2, names={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}, fused_qkv=False,
        qkv_bias=False,
    ),
    "gpt_neox": Family(
        norm=Norm.WEIGHT_AND_BIAS, qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias=True, gated=False,
        fused_qkv=True, defaults={"attention_bias": True},
    ),
    "gpt_oss": Family(
        qkv_bias="attention_bias", o_bias="attention_bias", sinks=True, pattern=Pattern.EVERY_NTH_FULL, window_every=2,
        experts=replace(_WIDE_EXPERTS, router_bias=True, expert_bias=True),
        defaults={"attention_bias": True, "sliding_window": 128},
    ),
    "gptj": replace(_GPTJ, fused_qkv=False),
    "granite": replace(_LLAMA, tied=False),
    "granitemoe": _GRANITE_MOE,
    "granitemoehybrid": replace(
        _GRANITE_SHARED, state=State.MAMBA2, dense_width="shared_intermediate_size",
    ),
    "granitemoeshared": _GRANITE_SHARED,
    "helium": Family(qkv_bias="attention_bias"),
    "hunyuan_v1_dense": _HUNYUAN,
    "hunyuan_v1_moe": replace(
        _HUNYUAN, experts=Experts(width="intermediate_size", per_token="moe_topk", shared="num_shared_expert")  # noqa: S106
    ),
    "internlm": Family(qkv_bias="bias", o_bias="bias"),
    "internlm2": Family(qkv_bias="bias", o_bias="bias", fused_qkv=True),
    "internlm3": Family(qkv_bias="qkv_bias", o_bias="bias", mlp_bias="bias"),
    "jamba": Family(
        pattern=Pattern.PERIODIC_ATTENTION, state=State.MAMBA1,
        experts=Experts(width="intermediate_size", where=ExpertLayers.PERIODIC, fewest=2),
    ),
    "kimi_k2": _DEEPSEEK_V3,
    "lfm2": Family(qk_norm=QkNorm.HEAD, state=State.SHORT_CONV, tied=True),
    "llama": _LLAMA,
    "llama4_text": _LLAMA4,
    "mamba": _MAMBA,
    "mamba2": replace(
        _MAMBA, state=State.MAMBA2,
        names={
            "mamba_n_heads": "num_heads", "mamba_d_head": "head_dim", "mamba_n_groups": "n_groups",
            "mamba_d_state": "state_size", "mamba_d_conv": "conv_kernel", "mamba_expand": "expand",
            "mamba_conv_bias": "use_conv_bias", "mamba_proj_bias": "use_bias",
        },
        tied=False,
    ),
    "minicpm": replace(_LLAMA, mlp_bias=False, tied=True),
    "minicpm3": Family(qkv_bias="attention_bias", o_bias="attention_bias", latent=True, tied=True),
    "minimax_m2": Family(qk_norm=QkNorm.WIDTH, experts=replace(_WIDE_EXPERTS, correction_bias=True)),
    "ministral": Family(pattern=Pattern.UNIFORM),
    "ministral3": Family(pattern=Pattern.UNIFORM),
    "mistral": Family(pattern=Pattern.UNIFORM),
    "mixtral": Family(pattern=Pattern.UNIFORM, experts=_WIDE_EXPERTS),
    "mpt": Family(
        names={
            "num_hidden_layers": "n_layers",
            "hidden_size": "d_model",
            "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len",
        },
        gated=False, fused_qkv=True, tied=True, dense_width_factor=4,
    ),
    "nemotron": replace(_LLAMA, gated=False, norm=Norm.WEIGHT_AND_BIAS),
    "nemotron_h": Family(
        names={
            "mamba_n_heads": "mamba_num_heads", "mamba_d_head": "mamba_head_dim", "mamba_n_groups": "n_groups",
            "mamba_d_state": "ssm_state_size", "mamba_d_conv": "conv_kernel", "mamba_expand": "expand",
            "mamba_conv_bias": "use_conv_bias",
        },
        norms=1, qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias", gated=False,
        pattern=Pattern.LETTERS, state=State.MAMBA2, state_dtype=("mamba_ssm_cache_dtype", "float32"),
        experts=Experts(
            number="n_routed_experts", shared_width="moe_shared_expert_intermediate_size", correction_bias=True
        ),
    ),
    "olmo": Family(norm=Norm.NONE, qkv_bias="attention_bias", o_bias="attention_bias"),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, pattern=Pattern.EVERY_NTH_FULL, window_every=4, defaults={"sliding_window": 4096}),
    "olmoe": replace(_OLMO2, experts=Experts(width="intermediate_size")),
    "opt": replace(
        _GPT2, names={"intermediate_size": "ffn_dim"}, fused_qkv=False, qkv_bias="enable_bias", o_bias="enable_bias",
        mlp_bias="enable_bias", positions=2, defaults={"enable_bias": True},
    ),
    "phi": Family(
        norm=Norm.WEIGHT_AND_BIAS, norms=1, qkv_bias=True, o_bias=True, mlp_bias=True, head_bias=True, gated=False,
        qk_norm=QkNorm.HEAD_AND_BIAS, qk_norm_flag="qk_layernorm",
    ),
    "phi3": _PHI3,
    "phimoe": Family(
        norm=Norm.WEIGHT_AND_BIAS, qkv_bias="attention_bias", o_bias="attention_bias", head_bias="lm_head_bias",
        pattern=Pattern.UNIFORM, experts=_WIDE_EXPERTS,
    ),
    "qwen": Family(qkv_bias=True, fused_qkv=True, names={"max_position_embeddings": "seq_length"}),
    "qwen2": _QWEN2,
    "qwen2_moe": replace(_QWEN2, experts=_QWEN_SHARED),
    "qwen3": _QWEN3,
    "qwen3_5_moe_text": replace(_QWEN3_5, experts=replace(_QWEN_SHARED, where=ExpertLayers.ALL)),
    "qwen3_5_text": _QWEN3_5,
    "qwen3_moe": replace(_QWEN3, experts=_QWEN_EXPERTS),
    "qwen3_next": _QWEN3_NEXT,
    "seed_oss": Family(
        qkv_bias="attention_bias", o_bias="attention_out_bias", mlp_bias="mlp_bias", defaults={"attention_bias": True}
    ),
    "smollm3": replace(_LLAMA, tied=True),
    "stablelm": Family(
        norm=Norm.WEIGHT_AND_BIAS, qkv_bias="use_qkv_bias", qk_norm=QkNorm.WIDTH, qk_norm_flag="qk_layernorm"
    ),
    "starcoder2": Family(
        norm=Norm.WEIGHT_AND_BIAS, qkv_bias="use_bias", o_bias="use_bias", mlp_bias="use_bias", gated=False, tied=True,
        pattern=Pattern.UNIFORM, defaults={"use_bias": True},
    ),
    "xverse": _PLAIN,
}  # fmt: skip

WRAPPERS = {
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "llava": "llama",
    "qwen2_5_vl": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "kimi_k25": "kimi_k2",
}
"""Models of several senses: the language model is in `text_config` (or beside), of the family named here when it does
not say itself."""
TEXT_ALIASES = {
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
"""Language models that are of another family under a name of their own."""
