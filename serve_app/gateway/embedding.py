"""What makes a vector of a question, as the semantic cache sees it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class Embedder(Protocol):
    """`num_dims` is the length of its vectors; `name` is shown in the statistics."""

    name: str
    num_dims: int

    async def embed(self, text: str) -> Vector:
        """Of any length but 0. Who needs more than a millisecond does it in a thread; what it raises is a miss."""
        ...
