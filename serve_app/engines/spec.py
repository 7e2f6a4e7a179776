"""What all replicas of one engine deployment have in common. Imports nothing heavy: the controller builds it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Bound to the Serve deployment; the rest of what an engine needs comes with the claim."""

    model: str
    deployment: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    tensor_parallel: int
