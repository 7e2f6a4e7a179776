"""What a training run is made of: sizes, steps, rates and the seed. Values only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, given the code, the machine and its libraries.

    One step learns from `rows_per_step` rows of `row_tokens` tokens. The learning rate rises over the first
    `warm_up` of the steps and falls by a cosine to `last_rate` of its peak.
    `num_threads` is 1 because threads of one small model wait for each other more than they work, and stand
    still where other programs want the cores; models are trained side by side instead.
    Matrices begin with a standard deviation of `matrix_scale` / √inputs, embeddings with `embedding_std`.
    `bfloat16`: multiply matrices in bfloat16 where the machine does so natively; weights stay float32.
    """

    model: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    num_steps: int
    learning_rate: float
    bfloat16: bool = False
    head_dim: int = 32
    rows_per_step: int = 8
    row_tokens: int = 96
    matrix_scale: float = 0.5
    embedding_std: float = 0.1
    warm_up: float = 0.1
    last_rate: float = 0.02
    weight_decay: float = 0.01
    largest_gradient: float = 1.0
    rope_theta: float = 10_000.0
    num_threads: int = 1
    seed: int = 0

    @property
    def config_hash(self) -> str:
        """First 12 hex digits of the SHA-256 over all fields in a canonical form."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
