"""Modules of layers that carry a state instead of a cache, and the state's shape.

Mamba 1 and 2, gated delta nets, short convolutions.

Source: transformers 5.19 `modeling_{mamba,mamba2,jamba,qwen3_next,lfm2}.py`; states: vLLM 0.32
`model_executor/layers/mamba/mamba_utils.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from placement.config_keys import ConfigKeys
from placement.family import Family, State
from placement.modules import Module, Role, Split

MIXER = "mixer"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateShape:
    """One layer's state of one sequence: the last inputs of a convolution, and what is carried on.

    `channels` are divided among ranks, and so are `groups` of `group_channels` each, repeated where they do not divide.
    `carried` elements have `carried_bytes` each; None: as wide as the model's numbers.
    """

    channels: int
    steps: int
    carried: int
    groups: int = 0
    group_channels: int = 0
    carried_bytes: int | None = None
    divisor: int = 1
    """What tensor parallelism must divide: heads, or channels where there are none."""


def state_bytes(shape: StateShape, *, dtype_bytes: int, tensor_parallel: int = 1) -> int:
    """Bytes of one layer's state of one sequence on each rank."""
    groups = shape.groups
    if groups and groups % tensor_parallel:
        groups = tensor_parallel
    convolution = ceil((shape.channels + groups * shape.group_channels) / tensor_parallel) * shape.steps
    carried = ceil(shape.carried / tensor_parallel)
    return convolution * dtype_bytes + carried * (shape.carried_bytes or dtype_bytes)


def state_shape(keys: ConfigKeys, family: Family) -> StateShape | None:
    """None for a family without linear layers."""
    width = _carried_bytes(keys, family)
    match family.state:
        case State.NONE:
            return None
        case State.MAMBA1:
            channels = keys.number("state_channels")
            return StateShape(
                channels=channels, steps=keys.number("mamba_d_conv", 4) - 1, divisor=channels,
                carried=channels * keys.number("state_dim"), carried_bytes=width,
            )  # fmt: skip
        case State.MAMBA2:
            state, heads = keys.number("mamba_d_state"), keys.number("mamba_n_heads")
            return StateShape(
                channels=keys.number("state_channels"), steps=keys.number("mamba_d_conv", 4) - 1,
                groups=keys.number("mamba_n_groups", 1), group_channels=2 * state,
                carried=heads * keys.number("mamba_d_head") * state, carried_bytes=width, divisor=heads,
            )  # fmt: skip
        case State.GATED_DELTA:
            delta = _Delta(keys)
            return StateShape(
                channels=2 * delta.key_rows + delta.value_rows, steps=delta.kernel - 1, carried_bytes=width,
                carried=delta.value_heads * delta.value_dim * delta.key_dim, divisor=delta.key_heads,
            )  # fmt: skip
        case State.SHORT_CONV:
            hidden = keys.number("hidden_size")
            return StateShape(channels=hidden, steps=keys.number("conv_L_cache", 3) - 1, carried=0, divisor=hidden)


def state_modules(keys: ConfigKeys, family: Family, layers: tuple[int, ...]) -> tuple[Module, ...]:
    """All linear layers; none for no layers."""
    if not layers:
        return ()
    match family.state:
        case State.NONE:
            return ()
        case State.MAMBA1:
            return _mamba1(keys, layers)
        case State.MAMBA2:
            return _mamba2(keys, layers)
        case State.GATED_DELTA:
            return _gated_delta(keys, layers)
        case State.SHORT_CONV:
            return _short_conv(keys, layers)


def _carried_bytes(keys: ConfigKeys, family: Family) -> int | None:
    if family.state_dtype is None:
        return None
    entry, default = family.state_dtype
    return {"float32": 4, "float16": 2, "bfloat16": 2}.get(keys.text(entry, default))


def _mamba1(keys: ConfigKeys, layers: tuple[int, ...]) -> tuple[Module, ...]:
    hidden, channels = keys.number("hidden_size"), keys.number("state_channels")
    state, rank, kernel = keys.number("state_dim"), keys.number("state_rank"), keys.number("mamba_d_conv", 4)
    biased = keys.flag("mamba_proj_bias")
    conv_bias = channels if keys.flag("mamba_conv_bias", default=True) else 0
    norms = rank + 2 * state if keys.flag("state_norms") else 0
    return (
        _linear("in_proj", 2 * channels, hidden, layers, split=Split.ROWS, bias=2 * channels if biased else 0),
        _linear("x_proj", rank + 2 * state, channels, layers, split=Split.COLUMNS),
        _linear("dt_proj", channels, rank, layers, split=Split.ROWS, bias=channels),
        _linear("out_proj", hidden, channels, layers, split=Split.COLUMNS, bias=hidden if biased else 0),
        _other("conv1d", channels, layers, columns=kernel, bias=conv_bias),
        _other("A_log", channels, layers, columns=state),
        _other("D", channels, layers),
        *((_other("norms", norms, layers, split=Split.WHOLE),) if norms else ()),
    )


def _mamba2(keys: ConfigKeys, layers: tuple[int, ...]) -> tuple[Module, ...]:
    hidden, channels, heads = keys.number("hidden_size"), keys.number("state_channels"), keys.number("mamba_n_heads")
    both = 2 * keys.number("mamba_n_groups", 1) * keys.number("mamba_d_state")
    kernel, biased = keys.number("mamba_d_conv", 4), keys.flag("mamba_proj_bias")
    into = 2 * channels + both + heads
    conv_bias = channels + both if keys.flag("mamba_conv_bias", default=True) else 0
    norm = channels if keys.flag("state_norm", default=True) else 0
    return (
        _linear("in_proj", into, hidden, layers, split=Split.ROWS, bias=into if biased else 0),
        _linear("out_proj", hidden, channels, layers, split=Split.COLUMNS, bias=hidden if biased else 0),
        _other("conv1d", channels + both, layers, columns=kernel, bias=conv_bias),
        _other("A_log_D_dt_bias", 3 * heads, layers),
        *((_other("norm", norm, layers),) if norm else ()),
    )


class _Delta:
    """Entries of gated delta nets: keys and values have heads of their own."""

    def __init__(self, keys: ConfigKeys) -> None:
        self.key_heads, self.key_dim = keys.number("linear_num_key_heads"), keys.number("linear_key_head_dim")
        self.value_heads, self.value_dim = keys.number("linear_num_value_heads"), keys.number("linear_value_head_dim")
        self.kernel = keys.number("linear_conv_kernel_dim", 4)
        self.key_rows, self.value_rows = self.key_heads * self.key_dim, self.value_heads * self.value_dim


def _gated_delta(keys: ConfigKeys, layers: tuple[int, ...]) -> tuple[Module, ...]:
    hidden, delta = keys.number("hidden_size"), _Delta(keys)
    return (
        _linear("in_proj_qkvz", 2 * (delta.key_rows + delta.value_rows), hidden, layers, split=Split.ROWS),
        _linear("in_proj_ba", 2 * delta.value_heads, hidden, layers, split=Split.ROWS),
        _linear("out_proj", hidden, delta.value_rows, layers, split=Split.COLUMNS),
        _other("conv1d", 2 * delta.key_rows + delta.value_rows, layers, columns=delta.kernel),
        _other("A_log_dt_bias", 2 * delta.value_heads, layers),
        _other("norm", delta.value_dim, layers, split=Split.WHOLE),
    )


def _short_conv(keys: ConfigKeys, layers: tuple[int, ...]) -> tuple[Module, ...]:
    hidden, kernel = keys.number("hidden_size"), keys.number("conv_L_cache", 3)
    biased = keys.flag("conv_bias")
    return (
        _linear("in_proj", 3 * hidden, hidden, layers, split=Split.ROWS, bias=3 * hidden if biased else 0),
        _linear("out_proj", hidden, hidden, layers, split=Split.COLUMNS, bias=hidden if biased else 0),
        _other("conv", hidden, layers, columns=kernel, bias=hidden if biased else 0),
    )


def _linear(name: str, rows: int, columns: int, layers: tuple[int, ...], *, split: Split, bias: int = 0) -> Module:
    return Module(name=f"{MIXER}.{name}", rows=rows, columns=columns, bias=bias, split=split, layers=layers)


def _other(
    name: str, rows: int, layers: tuple[int, ...], *, columns: int = 1, bias: int = 0, split: Split = Split.ROWS
) -> Module:
    return Module(
        name=f"{MIXER}.{name}", rows=rows, columns=columns, bias=bias, split=split, layers=layers, role=Role.OTHER
    )
