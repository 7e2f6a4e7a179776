"""The shape of a model, read from its config.json: what sizes depend on, and nothing else.

Knows decoder-only models of the Llama kind (Llama, Mistral, Qwen2, Qwen3) with the same attention in
every layer. Experts, quantised weights, latent attention and mixed layers are refused by name, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from placement.errors import UnsupportedModel

DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
AUTO_DTYPES = frozenset({"auto", "float32", "float"})
NOT_YET = (
    "quantization_config",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "kv_lora_rank",
    "text_config",
)
"""Keys of config.json that change sizes in ways this module does not count yet."""


@dataclass(frozen=True, slots=True)
class _Family:
    """Defaults of one `model_type` in transformers, where its configs may stay silent.

    `qkv_bias`: whether q, k and v have one; None where `attention_bias` says so, and then o has one too.
    """

    qk_norm: bool = False
    qkv_bias: bool | None = None


FAMILIES = {
    "llama": _Family(),
    "mistral": _Family(qkv_bias=False),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(qk_norm=True),
}
"""Source: transformers 5.19 `models/{llama,mistral,qwen2,qwen3}/modeling_*.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """`dtype_bytes` is the width of weights, activations and KV cache as the engine runs them.

    `sliding_window` is None for full attention. `qkv_bias`, `o_bias`, `mlp_bias`: whether these layers have one.
    """

    model_type: str
    layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    intermediate_size: int
    max_position: int
    dtype_bytes: int
    tied_embeddings: bool
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None


def model_spec(config: Mapping[str, object], *, dtype: str = "auto") -> ModelSpec:
    """The spec of a Hugging Face config.json.

    `dtype` is the engine's argument: "auto" takes the config's own, with float32 run as 2 bytes.
    Raises: UnsupportedModel naming the key that is missing, malformed or not counted yet.
    Source: vLLM 0.32 `config/model.py`, `_resolve_auto_dtype` (downcasts float32 where `dtype` is auto).
    """
    family = _family(config)
    heads, hidden = _positive(config, "num_attention_heads"), _positive(config, "hidden_size")
    attention_bias = _flag(config, "attention_bias", default=False)
    return ModelSpec(
        model_type=str(config["model_type"]),
        layers=_positive(config, "num_hidden_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=_positive(config, "num_key_value_heads", default=heads),
        head_dim=_positive(config, "head_dim", default=hidden // heads),
        vocab_size=_positive(config, "vocab_size"),
        intermediate_size=_positive(config, "intermediate_size"),
        max_position=_positive(config, "max_position_embeddings"),
        dtype_bytes=_dtype_bytes(config, dtype),
        tied_embeddings=_flag(config, "tie_word_embeddings", default=False),
        qk_norm=family.qk_norm,
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        o_bias=attention_bias and family.qkv_bias is None,
        mlp_bias=_flag(config, "mlp_bias", default=False) and str(config["model_type"]) == "llama",
        sliding_window=_sliding_window(config),
    )


def num_params(spec: ModelSpec) -> int:
    """Parameters as a checkpoint stores them: tied embeddings once.

    Source: the modules of transformers' Llama-type models; equal to the byte with published safetensors indexes.
    """
    embeddings = spec.vocab_size * spec.hidden_size * (1 if spec.tied_embeddings else 2)
    return embeddings + spec.layers * (_attention_params(spec) + _mlp_params(spec)) + num_norm_params(spec)


def num_norm_params(spec: ModelSpec) -> int:
    """Parameters that every tensor-parallel rank holds whole."""
    per_layer = 2 * spec.hidden_size + (2 * spec.head_dim if spec.qk_norm else 0)
    return spec.layers * per_layer + spec.hidden_size


def num_kv_projection_params(spec: ModelSpec) -> int:
    """Parameters of k and v over all layers, held more than once when ranks outnumber the KV heads."""
    rows = spec.num_kv_heads * spec.head_dim
    return spec.layers * 2 * rows * (spec.hidden_size + (1 if spec.qkv_bias else 0))


def weights_bytes_from_config(spec: ModelSpec) -> int:
    """Bytes of all weights at the spec's dtype. Exact for an unquantised checkpoint stored in that dtype."""
    return num_params(spec) * spec.dtype_bytes


def _attention_params(spec: ModelSpec) -> int:
    q_rows, kv_rows = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    matrices = spec.hidden_size * (2 * q_rows + 2 * kv_rows)
    biases = (q_rows + 2 * kv_rows if spec.qkv_bias else 0) + (spec.hidden_size if spec.o_bias else 0)
    return matrices + biases


def _mlp_params(spec: ModelSpec) -> int:
    biases = 2 * spec.intermediate_size + spec.hidden_size if spec.mlp_bias else 0
    return 3 * spec.hidden_size * spec.intermediate_size + biases


def _family(config: Mapping[str, object]) -> _Family:
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(FAMILIES)
        raise UnsupportedModel("model_type", f"config.json has model_type {model_type!r}; sizes are known for {known}")
    for key in NOT_YET:
        if config.get(key) is not None:
            raise UnsupportedModel(key, f"config.json has '{key}'; models with it are not counted yet")
    layer_types = config.get("layer_types")
    if layer_types is not None and len({str(kind) for kind in _list(layer_types)}) > 1:
        raise UnsupportedModel("layer_types", "config.json mixes kinds of attention; such models are not counted yet")
    return family


def _sliding_window(config: Mapping[str, object]) -> int | None:
    window = config.get("sliding_window")
    if window is None or not _flag(config, "use_sliding_window", default=config.get("model_type") == "mistral"):
        return None
    return _positive(config, "sliding_window")


def _dtype_bytes(config: Mapping[str, object], dtype: str) -> int:
    own = config.get("dtype", config.get("torch_dtype")) or "bfloat16"
    name = str(own).removeprefix("torch.") if dtype == "auto" else dtype
    if name not in DTYPE_BYTES:
        raise UnsupportedModel("dtype", f"dtype {name!r} is none of auto, {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES["bfloat16"] if dtype == "auto" and name in AUTO_DTYPES else DTYPE_BYTES[name]


def _positive(config: Mapping[str, object], key: str, *, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        value = default
    if type(value) is not int or value < 1:
        raise UnsupportedModel(key, f"config.json has {key} {value!r}; it must be a whole number of at least 1")
    return value


def _flag(config: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not bool:
        raise UnsupportedModel(key, f"config.json has {key} {value!r}; it must be true or false")
    return value


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
