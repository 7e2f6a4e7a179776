"""All modules of a language model: embeddings, layers, norms, head, and layers for predicting several tokens."""

from __future__ import annotations

from dataclasses import replace

from placement.attention_modules import Heads, attention_modules, has_bias, norm_elements
from placement.config_keys import ConfigKeys
from placement.family import Family
from placement.ffn_modules import dense_modules, expert_modules
from placement.layer_plan import LayerPlan, Mlp
from placement.modules import Module, Role, Split
from placement.state_modules import state_modules


def language_modules(
    keys: ConfigKeys, family: Family, plan: LayerPlan, heads: Heads | None, *, tied: bool
) -> tuple[Module, ...]:
    """`heads` None: no layer attends."""
    attention = attention_modules(keys, family, heads, plan.attending) if heads is not None else ()
    return (
        *_ends(keys, family, tied=tied),
        *attention,
        *state_modules(keys, family, plan.with_state),
        *dense_modules(keys, family, plan.with_mlp(Mlp.DENSE)),
        *expert_modules(keys, family, plan.with_mlp(Mlp.EXPERTS)),
        *_norms(keys, family, len(plan.mixers)),
        *(_next_layers(keys, family, plan, heads) if heads is not None else ()),
    )


def _ends(keys: ConfigKeys, family: Family, *, tied: bool) -> tuple[Module, ...]:
    """What lies before the first layer and behind the last."""
    hidden, vocabulary = keys.number("hidden_size"), keys.number("vocab_size")
    embedded = keys.number("embedding_size", hidden)
    modules = [_embedding("model.embed_tokens", vocabulary, embedded)]
    if not tied:
        bias = vocabulary if has_bias(keys, family.head_bias) else 0
        modules.append(
            Module(name="lm_head", rows=vocabulary, columns=embedded, bias=bias, role=Role.HEAD, split=Split.VOCABULARY)
        )
    if embedded != hidden:
        modules += [_whole("model.project_in", hidden, embedded), _whole("model.project_out", embedded, hidden)]
    if family.positions is not None:
        modules.append(
            _whole("model.embed_positions", keys.number("max_position_embeddings") + family.positions, hidden)
        )
    return tuple(modules)


def _norms(keys: ConfigKeys, family: Family, layers: int) -> tuple[Module, ...]:
    one = norm_elements(family, keys.number("hidden_size"))
    if not one:
        return ()
    in_layer = keys.number("norms_per_layer", family.norms)
    outside = int(keys.flag("final_norm", default=True)) + int(family.embedding_norm)
    modules = (Module(name="layernorms", rows=in_layer * one, role=Role.OTHER, layers=tuple(range(layers))),)
    return (*modules, _whole("model.norm", outside * one, 1)) if outside else modules


def _next_layers(keys: ConfigKeys, family: Family, plan: LayerPlan, heads: Heads) -> tuple[Module, ...]:
    """Layers behind the last one that a checkpoint may carry; vLLM loads them for speculative decoding alone.

    Each has a whole layer like the last and a projection of its own, and embeddings and a head where it shares none.
    Source: tensors of the published DeepSeek-V3, GLM-4.5 and Qwen3-Next; vLLM 0.32 `models/deepseek_mtp.py`.
    """
    number = 0
    if family.next_layers:
        number = keys.number(family.next_layers, family.next_layers_unstated, least=0, most=16)
    if not number:
        return ()
    layers = tuple(range(len(plan.mixers), len(plan.mixers) + number))
    hidden, vocabulary = keys.number("hidden_size"), keys.number("vocab_size")
    mlp = expert_modules if plan.mlps[-1] is Mlp.EXPERTS else dense_modules
    modules = (
        *attention_modules(keys, family, heads, layers),
        *mlp(keys, family, layers),
        *(_next_ends(vocabulary, hidden, layers) if family.next_ends else ()),
        Module(name="eh_proj", rows=hidden, columns=2 * hidden, role=Role.OTHER, layers=layers),
        Module(name="norms", rows=5 * norm_elements(family, hidden), role=Role.OTHER, layers=layers),
    )
    return tuple(replace(module, stored_only=True) for module in modules)


def _next_ends(vocabulary: int, hidden: int, layers: tuple[int, ...]) -> tuple[Module, ...]:
    return (
        Module(name="embed_tokens", rows=vocabulary, columns=hidden, role=Role.EMBEDDING, layers=layers),
        Module(name="shared_head.head", rows=vocabulary, columns=hidden, role=Role.HEAD, layers=layers),
    )


def _embedding(name: str, rows: int, columns: int) -> Module:
    return Module(name=name, rows=rows, columns=columns, role=Role.EMBEDDING, split=Split.VOCABULARY)


def _whole(name: str, rows: int, columns: int) -> Module:
    return Module(name=name, rows=rows, columns=columns, role=Role.OTHER)
