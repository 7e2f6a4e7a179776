"""When an answer must be there, by a clock that the shell hands in. Pure code has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

SEARCH = 0.75
"""Part of the time that searches may take; the rest is for the words of the plan."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """`limit_s` after the clock's 0; `elapsed_s` tells the clock, without one the deadline never comes."""

    limit_s: float
    elapsed_s: Callable[[], float] | None = None

    @property
    def left_s(self) -> float:
        return inf if self.elapsed_s is None else max(0.0, self.limit_s - self.elapsed_s())

    @property
    def is_over(self) -> bool:
        return self.elapsed_s is not None and self.elapsed_s() >= self.limit_s

    def part(self, part: float) -> Deadline:
        """An earlier one, after a part of the time."""
        return Deadline(self.limit_s * part, self.elapsed_s)


NO_DEADLINE = Deadline(inf)
