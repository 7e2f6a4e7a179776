"""Modules of attention: queries, keys, values and their output; heads shared, or keys and values through a latent.

Source: transformers 5.19 `modeling_llama.py` and its kin, `modeling_deepseek_v3.py`, `modeling_deepseek_v32.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from placement.config_keys import ConfigKeys
from placement.errors import UnsupportedModel
from placement.family import Bias, Family, Norm, QkNorm
from placement.modules import Module, Role, Split

ATTENTION = "self_attn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """`value_dim` differs from `head_dim` with a latent only. `latent_dim` and `rope_dim` are what is cached then."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    latent_dim: int = 0
    rope_dim: int = 0
    index_dim: int = 0
    """Width of the key that a sparse attention is chosen by; 0 for none."""

    @property
    def query_rows(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        return self.num_kv_heads * self.head_dim


def heads_of(keys: ConfigKeys, family: Family) -> Heads:
    """Raises: UnsupportedModel for entries that are missing or do not go together."""
    num_heads = keys.number("num_attention_heads")
    if family.latent:
        nope, rope = keys.number("qk_nope_head_dim"), keys.number("qk_rope_head_dim")
        return Heads(
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=nope + rope,
            value_dim=keys.number("v_head_dim"),
            latent_dim=keys.number("kv_lora_rank"),
            rope_dim=rope,
            index_dim=keys.optional("index_head_dim") or 0,
        )
    hidden = keys.number("hidden_size")
    if not keys.has("head_dim") and hidden % num_heads:
        message = f"config.json has hidden_size {hidden} that {num_heads} heads do not divide, and no head_dim"
        raise UnsupportedModel("num_attention_heads", message)
    head_dim = keys.number("head_dim", hidden // num_heads)
    kv_heads = keys.number("num_key_value_heads", num_heads)
    if num_heads % kv_heads:
        message = f"config.json has {num_heads} heads that {kv_heads} KV heads do not divide"
        raise UnsupportedModel("num_key_value_heads", message)
    return Heads(num_heads=num_heads, num_kv_heads=kv_heads, head_dim=head_dim, value_dim=head_dim)


def has_bias(keys: ConfigKeys, bias: Bias) -> bool:
    return bias if isinstance(bias, bool) else keys.flag(bias)


def attention_modules(keys: ConfigKeys, family: Family, heads: Heads, layers: tuple[int, ...]) -> tuple[Module, ...]:
    """All of one kind of layer; none for no layers."""
    if not layers:
        return ()
    if family.latent:
        return _latent_modules(keys, family, heads, layers)
    hidden, biased = keys.number("hidden_size"), has_bias(keys, family.qkv_bias)
    queries = heads.query_rows * (2 if family.output_gate else 1)
    groups = (("qkv_proj", queries, 2 * heads.kv_rows),) if family.fused_qkv else (
        ("q_proj", queries, 0), ("k_proj", 0, heads.kv_rows), ("v_proj", 0, heads.kv_rows),
    )  # fmt: skip
    projections = tuple(
        Module(
            name=f"{ATTENTION}.{name}", rows=rows, kv_rows=kv_rows, kv_heads=heads.num_kv_heads, columns=hidden,
            bias=rows + kv_rows if biased else 0, split=Split.ROWS, layers=layers,
        )
        for name, rows, kv_rows in groups
    )  # fmt: skip
    output = Module(
        name=f"{ATTENTION}.o_proj", rows=hidden, columns=heads.query_rows,
        bias=hidden if has_bias(keys, family.o_bias) else 0, split=Split.COLUMNS, layers=layers,
    )  # fmt: skip
    return (*projections, output, *_norms(keys, family, heads, layers), *_sinks(family, heads, layers))


def _norms(keys: ConfigKeys, family: Family, heads: Heads, layers: tuple[int, ...]) -> tuple[Module, ...]:
    if family.qk_norm is QkNorm.NONE or (family.qk_norm_flag and not keys.flag(family.qk_norm_flag)):
        return ()
    wide = family.qk_norm is QkNorm.WIDTH
    sizes = (heads.query_rows, heads.kv_rows) if wide else (heads.head_dim, heads.head_dim)
    return tuple(
        _vector(
            f"{ATTENTION}.{name}", size, layers,
            split=Split.ROWS if wide else Split.WHOLE, biased=family.qk_norm is QkNorm.HEAD_AND_BIAS,
        )
        for name, size in zip(("q_norm", "k_norm"), sizes, strict=True)
    )  # fmt: skip


def _sinks(family: Family, heads: Heads, layers: tuple[int, ...]) -> tuple[Module, ...]:
    if not family.sinks:
        return ()
    return (_vector(f"{ATTENTION}.sinks", heads.num_heads, layers, split=Split.ROWS),)


def _latent_modules(keys: ConfigKeys, family: Family, heads: Heads, layers: tuple[int, ...]) -> tuple[Module, ...]:
    """DeepSeek's: queries through a latent of their own where `q_lora_rank` says so."""
    hidden, biased = keys.number("hidden_size"), has_bias(keys, family.qkv_bias)
    rank = keys.optional("q_lora_rank")
    into_latent = heads.latent_dim + heads.rope_dim
    from_latent = heads.num_heads * (heads.head_dim - heads.rope_dim + heads.value_dim)
    modules = [
        _linear("kv_a_proj_with_mqa", into_latent, hidden, layers, bias=into_latent if biased else 0),
        _vector(f"{ATTENTION}.kv_a_layernorm", heads.latent_dim, layers),
        _linear("kv_b_proj", from_latent, heads.latent_dim, layers, split=Split.ROWS),
        _linear(
            "o_proj", hidden, heads.num_heads * heads.value_dim, layers, split=Split.COLUMNS,
            bias=hidden if has_bias(keys, family.o_bias) else 0,
        ),
    ]  # fmt: skip
    if rank is None:
        modules.append(_linear("q_proj", heads.query_rows, hidden, layers, split=Split.ROWS))
    else:
        modules += [
            _linear("q_a_proj", rank, hidden, layers, bias=rank if biased else 0),
            _vector(f"{ATTENTION}.q_a_layernorm", rank, layers),
            _linear("q_b_proj", heads.query_rows, rank, layers, split=Split.ROWS),
        ]
    return (*modules, *_indexer(keys, heads, rank, layers))


def _indexer(keys: ConfigKeys, heads: Heads, rank: int | None, layers: tuple[int, ...]) -> tuple[Module, ...]:
    """What chooses the tokens that sparse attention looks at (DeepSeek V3.2, GLM 5); every rank holds it whole."""
    if not heads.index_dim:
        return ()
    hidden, num = keys.number("hidden_size"), keys.number("index_n_heads")
    return (
        _linear("indexer.wq_b", num * heads.index_dim, rank or hidden, layers),
        _linear("indexer.wk", heads.index_dim, hidden, layers),
        _linear("indexer.weights_proj", num, hidden, layers, role=Role.OTHER),
        _vector(f"{ATTENTION}.indexer.k_norm", heads.index_dim, layers, biased=True),
    )


def norm_elements(family: Family, size: int) -> int:
    """Elements of one norm over `size`."""
    return {Norm.NONE: 0, Norm.WEIGHT: size, Norm.WEIGHT_AND_BIAS: 2 * size}[family.norm]


def _linear(
    name: str, rows: int, columns: int, layers: tuple[int, ...],
    *, split: Split = Split.WHOLE, bias: int = 0, role: Role = Role.LINEAR,
) -> Module:  # fmt: skip
    return Module(
        name=f"{ATTENTION}.{name}", rows=rows, columns=columns, bias=bias, split=split, layers=layers, role=role
    )


def _vector(
    name: str, size: int, layers: tuple[int, ...], *, split: Split = Split.WHOLE, biased: bool = False
) -> Module:
    return Module(name=name, rows=size, bias=size if biased else 0, split=split, layers=layers, role=Role.OTHER)
