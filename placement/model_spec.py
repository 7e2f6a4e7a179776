"""A model as the estimates see it, read from its config.json: its modules, its caches, its widths. Nothing else.

What is known of each family is in `families`; a `model_type` that is not there is refused by name, unless the weights
are known from elsewhere and the config has the entries of a Llama.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from placement.attention_modules import Heads, heads_of
from placement.cache_layout import INDEX_SCALE_GROUP, CacheKind, LayerCache, merged
from placement.config_keys import MAX_NUMBER, ConfigKeys
from placement.errors import UnsupportedModel
from placement.families import FAMILIES, TEXT_ALIASES, WRAPPERS
from placement.family import Family
from placement.family_quirks import overlay
from placement.ffn_modules import dense_width, expert_width, shared_width
from placement.language_modules import language_modules
from placement.layer_plan import LayerPlan, Mixer, Mlp, layer_plan
from placement.modules import FLOAT32_BYTES, Module
from placement.quantization import Quantization, module_bytes, quantization_of
from placement.state_modules import state_shape
from placement.vision_modules import vision_modules

DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
AUTO_DTYPES = frozenset({"auto", "float32", "float"})
KV_DTYPE_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, **DTYPE_BYTES}
"""Source: vLLM 0.32 `config/cache.py`; formats with scales of their own in the cache are not counted."""
POSITION_KEYS = (
    "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "model_max_length",
)  # fmt: skip
UNSTATED_POSITIONS = 2048
"""What vLLM 0.32 `config/model.py` assumes where a config has none of these entries."""
ASSUMED = "llama"
"""The family whose entries an unknown `model_type` must have to be counted as."""
ASSUMED_KEYS = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
STRANGE_KEYS = (
    "kv_lora_rank", "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "layers_block_type",
    "layer_types", "sliding_window", "linear_num_value_heads", "mamba_d_state", "state_size", "ssm_state_size",
    "is_encoder_decoder", "encoder_layers", "num_decoder_layers",
)  # fmt: skip
"""Entries that no plain Llama has; what they mean for another family's cache would be a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Elements that the widest moment of a layer holds for one token: `split` among ranks, and `whole` on each."""

    split: int
    whole: int


@dataclass(frozen=True, slots=True)
class Divided:
    """A number that ranks share evenly, each a multiple of `grain` where there is more than one."""

    name: str
    number: int
    grain: int = 1

    def among(self, ranks: int) -> bool:
        return self.number % ranks == 0 and (ranks == 1 or self.number // ranks % self.grain == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """`dtype_bytes` is the width of weights and activations as the engine runs them, `kv_dtype_bytes` the cache's.

    Heads are 0 where no layer attends. `divided`: what tensor parallelism must divide. `assumed`: why it is
    counted as a Llama, empty for a known family. `uncounted`: what of the weights a config cannot tell, empty for none.
    """

    model_type: str
    layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    dtype_bytes: int
    kv_dtype_bytes: int
    tied_embeddings: bool
    modules: tuple[Module, ...]
    caches: tuple[LayerCache, ...]
    widths: Widths
    has_experts: bool
    divided: tuple[Divided, ...]
    quantization: Quantization | None = None
    assumed: str = ""
    uncounted: str = ""


def model_spec(
    config: Mapping[str, object], *, dtype: str = "auto", kv_dtype: str = "auto", weights_known: bool = False
) -> ModelSpec:
    """The spec of a Hugging Face config.json.

    `dtype` is the engine's argument: "auto" takes the config's own, float32 run as 2 bytes; "config" takes it as it is.
    `weights_known`: they are counted elsewhere, so that a model_type that is not in the table may pass for a Llama.
    Raises: UnsupportedModel naming the entry that is missing, malformed or not known.
    Source: vLLM 0.32 `config/model.py`, `_resolve_auto_dtype` (downcasts float32 where `dtype` is auto).
    """
    model_type, text = _language_config(config)
    family, assumed = _family(model_type, text, weights_known=weights_known)
    keys = ConfigKeys({**text, **overlay(model_type, text), **_positions(text, family)}, family.names, family.defaults)
    outer = ConfigKeys(config)
    plan = layer_plan(keys, family)
    heads = heads_of(keys, family) if plan.attending else None
    tied = keys.flag("tie_word_embeddings", default=outer.flag("tie_word_embeddings", default=family.tied))
    dtype_bytes = _dtype_bytes(config, text, dtype)
    vision, uncounted = _vision(config, outer, text_width=keys.number("hidden_size"))
    quantization = quantization_of(outer) or quantization_of(ConfigKeys(text))
    return ModelSpec(
        model_type=model_type,
        layers=len(plan.mixers),
        hidden_size=keys.number("hidden_size"),
        num_heads=heads.num_heads if heads else 0,
        num_kv_heads=heads.num_kv_heads if heads else 0,
        head_dim=heads.head_dim if heads else 0,
        vocab_size=keys.number("vocab_size"),
        max_position=keys.number("max_position_embeddings") if heads else MAX_NUMBER,
        dtype_bytes=dtype_bytes,
        kv_dtype_bytes=_kv_dtype_bytes(kv_dtype, dtype_bytes, quantization),
        tied_embeddings=tied,
        modules=language_modules(keys, family, plan, heads, tied=tied) + vision,
        caches=_caches(keys, family, plan, heads),
        widths=_widths(keys, family, plan, heads),
        has_experts=Mlp.EXPERTS in plan.mlps,
        divided=_divided(keys, family, plan, heads, quantization),
        quantization=quantization,
        assumed=assumed,
        uncounted=uncounted or _unknown_format(quantization),
    )


def num_params(spec: ModelSpec) -> int:
    """Parameters as a checkpoint stores them: tied embeddings once, layers for predicting several tokens included."""
    return sum(module.num_params for module in spec.modules)


def weights_bytes_from_config(spec: ModelSpec) -> int:
    """Bytes of the whole checkpoint. Exact for one stored in the spec's dtype, quantised or not.

    Raises: UnsupportedModel naming what a config does not tell.
    """
    if spec.uncounted or spec.assumed:
        what = spec.uncounted or f"the model_type {spec.model_type!r}"
        message = f"weights cannot be counted from config.json alone with {what}; safetensors files beside it tell them"
        raise UnsupportedModel("quantization_config" if "quantization" in what else "model_type", message)
    return sum(module_bytes(module, spec.quantization, dtype_bytes=spec.dtype_bytes) for module in spec.modules)


def _language_config(config: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    """Family and entries of the language model; those of a model of several senses may be one level down."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModel("model_type", f"config.json has model_type {model_type!r}; a word is expected")
    text = config.get("text_config")
    if isinstance(text, Mapping):
        inner = text.get("model_type")
        inner = inner if isinstance(inner, str) else WRAPPERS.get(model_type, model_type)
        return TEXT_ALIASES.get(inner, inner), text
    return WRAPPERS.get(model_type, model_type), config


def _family(model_type: str, text: Mapping[str, object], *, weights_known: bool) -> tuple[Family, str]:
    family = FAMILIES.get(model_type)
    if family is not None:
        return family, ""
    if weights_known and all(text.get(key) is not None for key in ASSUMED_KEYS):
        strange = next((key for key in STRANGE_KEYS if text.get(key)), None)
        if strange is None:
            return FAMILIES[ASSUMED], f"model_type {model_type!r} is not known; its entries are those of a Llama"
        message = f"config.json has the unknown model_type {model_type!r} and '{strange}', so its cache cannot be told"
        raise UnsupportedModel(strange, message)
    known = ", ".join(sorted(FAMILIES))
    raise UnsupportedModel("model_type", f"config.json has model_type {model_type!r}; sizes are known for {known}")


def _positions(text: Mapping[str, object], family: Family) -> dict[str, object]:
    keys = (family.names.get("max_position_embeddings", ""), *POSITION_KEYS)
    stated = next((text[key] for key in keys if text.get(key) is not None), None)
    stated = family.defaults.get("max_position_embeddings", UNSTATED_POSITIONS) if stated is None else stated
    return {"max_position_embeddings": stated}


def _vision(config: Mapping[str, object], outer: ConfigKeys, *, text_width: int) -> tuple[tuple[Module, ...], str]:
    """Modules of the picture side, and what of it cannot be counted."""
    tower = outer.inner("vision_config")
    if tower is None:
        return (), ""
    model_type = outer.text("model_type")
    modules = vision_modules(model_type, tower, outer, text_width=text_width)
    return (modules, "") if modules is not None else ((), f"the vision_config of {model_type!r}")


def _unknown_format(quantization: Quantization | None) -> str:
    known = quantization is None or quantization.packing is not None
    return "" if known or quantization is None else f"the quantization_config {quantization.method!r}"


def _caches(keys: ConfigKeys, family: Family, plan: LayerPlan, heads: Heads | None) -> tuple[LayerCache, ...]:
    found: list[LayerCache] = []
    shape = state_shape(keys, family) if plan.with_state else None
    for mixer in plan.mixers:
        if heads is not None and mixer in (Mixer.FULL, Mixer.SLIDING, Mixer.CHUNKED, Mixer.BESIDE):
            found += _attention_caches(keys, family, heads, mixer)
        if mixer in (Mixer.STATE, Mixer.BESIDE):
            found.append(LayerCache(kind=CacheKind.STATE, layers=1, state=shape))
    return merged(tuple(found))


def _attention_caches(keys: ConfigKeys, family: Family, heads: Heads, mixer: Mixer) -> list[LayerCache]:
    """Of one layer; a sparse one has a second cache for the keys it is chosen by."""
    if heads.latent_dim:
        latent = LayerCache(kind=CacheKind.LATENT, layers=1, elements=heads.latent_dim + heads.rope_dim)
        if not heads.index_dim:
            return [latent]
        scales = heads.index_dim // INDEX_SCALE_GROUP * FLOAT32_BYTES
        return [latent, LayerCache(kind=CacheKind.LATENT, layers=1, fixed_bytes=heads.index_dim + scales)]
    kind, window = CacheKind.FULL, None
    if mixer is Mixer.SLIDING:
        kind, window = CacheKind.SLIDING, keys.number("sliding_window") + family.window_extra
    elif mixer is Mixer.CHUNKED:
        kind, window = CacheKind.CHUNKED, keys.number("attention_chunk_size")
    elements = heads.head_dim + heads.value_dim
    return [LayerCache(kind=kind, layers=1, kv_heads=heads.num_kv_heads, elements=elements, window=window)]


def _widths(keys: ConfigKeys, family: Family, plan: LayerPlan, heads: Heads | None) -> Widths:
    """The widest of the kinds of layers. An MLP holds gate, up and their product; experts hold them once per choice."""
    hidden, parts = keys.number("hidden_size"), 3 if family.gated else 2
    found = [Widths(split=0, whole=2 * hidden)]
    if Mlp.DENSE in plan.mlps:
        found.append(Widths(split=parts * dense_width(keys, family), whole=2 * hidden))
    if family.experts is not None and Mlp.EXPERTS in plan.mlps:
        chosen = keys.number(family.experts.per_token, 1)
        beside = shared_width(keys, family.experts)
        split = parts * (chosen * expert_width(keys, family.experts) + beside)
        found.append(Widths(split=split, whole=(2 + chosen) * hidden))
    if plan.with_state:
        shape = state_shape(keys, family)
        assert shape is not None
        found.append(Widths(split=3 * shape.channels, whole=2 * hidden))
    return max(found, key=lambda one: one.split + one.whole)


def _divided(
    keys: ConfigKeys, family: Family, plan: LayerPlan, heads: Heads | None, quantization: Quantization | None
) -> tuple[Divided, ...]:
    """Source: vLLM 0.32 `config/model.py`, verify_with_parallel_config, and `divide` in its parallel layers."""
    packing = quantization.packing if quantization is not None else None
    grain = packing.grain if packing is not None else 1
    found = [Divided("num_attention_heads", heads.num_heads)] if heads else []
    if Mlp.DENSE in plan.mlps:
        found.append(Divided(family.dense_width, dense_width(keys, family), grain))
    if family.experts is not None and Mlp.EXPERTS in plan.mlps:
        found.append(Divided(family.experts.width, expert_width(keys, family.experts), grain))
    if plan.with_state:
        shape = state_shape(keys, family)
        assert shape is not None
        found.append(Divided("heads of the linear layers", shape.divisor))
    return tuple(found)


def _dtype_bytes(config: Mapping[str, object], text: Mapping[str, object], dtype: str) -> int:
    stated = (part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype"))
    own = next((value for value in stated if value), "bfloat16")
    name = str(own).removeprefix("torch.") if dtype in ("auto", "config") else dtype
    if name not in DTYPE_BYTES:
        raise UnsupportedModel("dtype", f"dtype {name!r} is none of auto, {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES["bfloat16"] if dtype == "auto" and name in AUTO_DTYPES else DTYPE_BYTES[name]


def _kv_dtype_bytes(kv_dtype: str, dtype_bytes: int, quantization: Quantization | None) -> int:
    """A quantised checkpoint may bring scales for an FP8 cache, which vLLM then takes where it may choose.

    Source: vLLM 0.32 `utils/torch_utils.py`, resolve_kv_cache_dtype_string, and `attention/attention.py`.
    """
    if kv_dtype == "auto":
        return (quantization.cache_bytes if quantization is not None else None) or dtype_bytes
    if kv_dtype not in KV_DTYPE_BYTES:
        raise UnsupportedModel("kv_dtype", f"kv_dtype {kv_dtype!r} is none of auto, {', '.join(KV_DTYPE_BYTES)}")
    return KV_DTYPE_BYTES[kv_dtype]
