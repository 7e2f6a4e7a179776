"""Modules of the MLPs: plain ones, and experts with their router and what every token passes beside them."""

from __future__ import annotations

from placement.attention_modules import has_bias
from placement.config_keys import ConfigKeys
from placement.family import Experts, Family
from placement.modules import FLOAT32_BYTES, Module, Role, Split

MLP = "mlp"


def dense_width(keys: ConfigKeys, family: Family) -> int:
    """Width of plain MLPs; a family may have a multiple of the hidden size where its config is silent."""
    default = family.dense_width_factor * keys.number("hidden_size") or None
    key = family.dense_width if keys.has(family.dense_width) else "intermediate_size"
    return keys.number(key, default)


def expert_width(keys: ConfigKeys, experts: Experts) -> int:
    return keys.number(experts.width)


def shared_width(keys: ConfigKeys, experts: Experts) -> int:
    """Width of what every token passes beside the experts; 0 for nothing."""
    if experts.shared_width:
        return keys.number(experts.shared_width, 0, least=0)
    return keys.number(experts.shared, 0, least=0) * expert_width(keys, experts) if experts.shared else 0


def dense_modules(keys: ConfigKeys, family: Family, layers: tuple[int, ...]) -> tuple[Module, ...]:
    if not layers:
        return ()
    biased = has_bias(keys, family.mlp_bias)
    modules = _mlp(keys, family, MLP, dense_width(keys, family), layers, biased=biased)
    if family.activation_params:
        modules += (Module(name=f"{MLP}.act_fn", rows=family.activation_params, role=Role.OTHER, layers=layers),)
    return modules


def expert_modules(keys: ConfigKeys, family: Family, layers: tuple[int, ...]) -> tuple[Module, ...]:
    experts = family.experts
    if not layers or experts is None:
        return ()
    number, hidden = keys.number(experts.number), keys.number("hidden_size")
    router = Module(
        name=f"{MLP}.gate", rows=number, columns=hidden, bias=number if experts.router_bias else 0,
        role=Role.OTHER, layers=layers,
    )  # fmt: skip
    return (
        router,
        *_correction(experts, number, layers),
        *_mlp(
            keys, family, f"{MLP}.experts.0", expert_width(keys, experts), layers,
            biased=experts.expert_bias, copies=number, role=Role.EXPERT,
        ),
        *_shared(keys, family, experts, layers),
    )  # fmt: skip


def _correction(experts: Experts, number: int, layers: tuple[int, ...]) -> tuple[Module, ...]:
    if not experts.correction_bias:
        return ()
    name = f"{MLP}.gate.e_score_correction_bias"
    return (Module(name=name, rows=number, role=Role.OTHER, layers=layers, width_bytes=FLOAT32_BYTES),)


def _shared(keys: ConfigKeys, family: Family, experts: Experts, layers: tuple[int, ...]) -> tuple[Module, ...]:
    width = shared_width(keys, experts)
    if not width:
        return ()
    modules = _mlp(keys, family, f"{MLP}.shared_experts", width, layers, biased=False)
    if experts.shared_gate:
        gate = Module(
            name=f"{MLP}.shared_expert_gate", rows=1, columns=keys.number("hidden_size"), role=Role.OTHER, layers=layers
        )
        modules += (gate,)
    return modules


def _mlp(
    keys: ConfigKeys, family: Family, name: str, width: int, layers: tuple[int, ...],
    *, biased: bool, copies: int = 1, role: Role = Role.LINEAR,
) -> tuple[Module, ...]:  # fmt: skip
    hidden = keys.number("hidden_size")
    into: tuple[tuple[str, int], ...]
    if family.gated and family.fused_gate_up:
        into = (("gate_up_proj", 2 * width),)
    elif family.gated:
        into = (("gate_proj", width), ("up_proj", width))
    else:
        into = (("up_proj", width),)
    wide = tuple(
        Module(
            name=f"{name}.{part}", rows=rows, columns=hidden, bias=rows if biased else 0, split=Split.ROWS,
            layers=layers, copies=copies, role=role,
        )
        for part, rows in into
    )  # fmt: skip
    down = Module(
        name=f"{name}.down_proj", rows=hidden, columns=width, bias=hidden if biased else 0, split=Split.COLUMNS,
        layers=layers, copies=copies, role=role,
    )  # fmt: skip
    return (*wide, down)
