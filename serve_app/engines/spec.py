"""What one engine runs with, as it travels with a slot. Imports nothing heavy: the controller builds it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArguments:
    """`offload_bytes`, per device: weights that lie in host memory and are read over the bus at every step.

    Parsers by vLLM's name; None: what the model writes is all text.
    """

    dtype: str
    max_model_len: int
    max_num_seqs: int
    tensor_parallel: int
    offload_bytes: int = 0
    tool_parser: str | None = None
    reasoning_parser: str | None = None
