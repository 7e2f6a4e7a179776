"""What the operator wants of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Goal(StrEnum):
    PACK = "pack"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`headroom` is the fraction of every device kept free, at rest and at the peak of any one start."""

    headroom: float = 0.20
    goal: Goal = Goal.PACK
    time_limit_s: float = 2.0
    seed: int = 0
