"""The weights of a model as modules with shapes: how many there are, and which part of each lies on one rank.

Knows shapes only: what number format a module has is `quantization`'s business, which modules a model has is that of
the builders (`attention_modules`, `ffn_modules`, `state_modules`, `vision_modules`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil

VOCAB_PADDING = 64
"""Rows of embeddings are padded to a multiple of this. Source: vLLM 0.32 `layers/vocab_parallel_embedding.py`."""
FLOAT32_BYTES = 4


class Role(StrEnum):
    LINEAR = "linear"
    """May be quantised; so may the experts."""
    EXPERT = "expert"
    EMBEDDING = "embedding"
    HEAD = "head"
    OTHER = "other"
    """Norms, convolutions, routers: kept in the model's own number format."""


class Split(StrEnum):
    """How tensor parallelism divides a module. Source: vLLM 0.32 `model_executor/layers/linear.py`."""

    WHOLE = "whole"
    """Every rank holds all of it."""
    ROWS = "rows"
    """Outputs divided ("column parallel" in vLLM), the bias with them."""
    COLUMNS = "columns"
    """Inputs divided ("row parallel" in vLLM), the bias whole on every rank."""
    VOCABULARY = "vocabulary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A matrix of `rows` outputs by `columns` inputs, or a vector (`columns` 1), `copies` times in each of `layers`.

    `kv_rows` come on top of `rows`: outputs that belong to `kv_heads` heads, repeated where ranks outnumber those.
    `name` is the path in the checkpoint, below `model.layers.N.` when there are `layers`. `bias` counts its elements,
    those of `kv_rows` included. `width_bytes` None: the model's number format. `stored_only`: there, but never loaded.
    """

    name: str
    rows: int
    columns: int = 1
    bias: int = 0
    kv_rows: int = 0
    kv_heads: int = 1
    role: Role = Role.LINEAR
    split: Split = Split.WHOLE
    layers: tuple[int, ...] = ()
    copies: int = 1
    width_bytes: int | None = None
    stored_only: bool = False

    @property
    def times(self) -> int:
        """How often the module is there in the whole model."""
        return self.copies * (len(self.layers) or 1)

    @property
    def all_rows(self) -> int:
        return self.rows + self.kv_rows

    @property
    def num_params(self) -> int:
        return self.times * (self.all_rows * self.columns + self.bias)

    def path(self, layer: int | None) -> str:
        """Its name in the checkpoint, without `.weight`."""
        return self.name if layer is None else f"model.layers.{layer}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one rank holds of one copy of a module."""

    rows: int
    columns: int
    bias: int


def whole_shape(module: Module) -> Shape:
    return Shape(rows=module.all_rows, columns=module.columns, bias=module.bias)


def rank_shape(module: Module, *, tensor_parallel: int) -> Shape:
    """The largest part that a rank of `tensor_parallel` holds; alone, a rank holds what the checkpoint has."""
    if tensor_parallel == 1:
        return whole_shape(module)
    match module.split:
        case Split.WHOLE:
            return whole_shape(module)
        case Split.ROWS:
            rows = ceil(module.rows / tensor_parallel) + _kv_rows_here(module, tensor_parallel)
            bias = ceil(module.bias * rows / module.all_rows) if module.bias else 0
            return Shape(rows=rows, columns=module.columns, bias=bias)
        case Split.COLUMNS:
            return Shape(rows=module.all_rows, columns=ceil(module.columns / tensor_parallel), bias=module.bias)
        case Split.VOCABULARY:
            rows = ceil(ceil(module.all_rows / VOCAB_PADDING) * VOCAB_PADDING / tensor_parallel)
            return Shape(rows=rows, columns=module.columns, bias=ceil(module.bias / tensor_parallel))


def kv_heads_here(kv_heads: int, tensor_parallel: int) -> int:
    """KV heads on each rank: at least one. Source: vLLM 0.32 `config/model.py`, get_num_kv_heads."""
    return max(1, kv_heads // tensor_parallel)


def _kv_rows_here(module: Module, tensor_parallel: int) -> int:
    return module.kv_rows // module.kv_heads * kv_heads_here(module.kv_heads, tensor_parallel) if module.kv_rows else 0
