"""What one engine runs with, as it travels with a slot. Imports nothing heavy: the controller builds it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArguments:
    """`offload_bytes`, per device: weights that lie in host memory and are read over the bus at every step."""

    dtype: str
    max_model_len: int
    max_num_seqs: int
    tensor_parallel: int
    offload_bytes: int = 0
