"""When an answer must be there, by a clock that the shell hands in. Pure code has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

SEARCH = 0.75
"""Part of the time that searches may take, less what the words about every demand may: the rest is for the plan."""
WORDS_S = 70e-6
"""Per demand, refused as it may be; measured on one x86 core."""


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

    def of_search(self, num_demands: int) -> Deadline:
        """The earlier one that leaves time for the plan's words about so many demands."""
        return Deadline(self.limit_s * SEARCH - WORDS_S * num_demands, self.elapsed_s)


NO_DEADLINE = Deadline(inf)
