"""Whether reinforcement still does good: averages over the last updates, and the reason to stop. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 100
"""Updates in a moving average (row C12)."""
FEWEST: Final = 30
"""Updates before anything is judged."""
LARGEST_FALL: Final = 0.2
"""Part of the best average that may be lost."""
LEAST_ENTROPY: Final = 1e-3
"""Nats per token; below it all answers to a question are the same and nothing can be learned from their difference."""
ENTROPY_WINDOW: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What was seen so far: the last `WINDOW` rewards, the last entropies, and the best average of rewards."""

    rewards: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    best_average: float = 0.0
    num_seen: int = 0

    @property
    def average(self) -> float:
        return sum(self.rewards) / len(self.rewards) if self.rewards else 0.0

    @property
    def recent_average(self) -> float:
        """Of the last `FEWEST` rewards: falls sooner than `average`."""
        last = self.rewards[-FEWEST:]
        return sum(last) / len(last) if last else 0.0

    @property
    def is_best(self) -> bool:
        return self.num_seen >= FEWEST and self.recent_average >= self.best_average

    def after(self, *, reward: float, entropy: float) -> Watch:
        """The watch one update later."""
        seen = Watch(
            rewards=(*self.rewards, reward)[-WINDOW:],
            entropies=(*self.entropies, entropy)[-ENTROPY_WINDOW:],
            best_average=self.best_average,
            num_seen=self.num_seen + 1,
        )
        if not seen.is_best:
            return seen
        return Watch(
            rewards=seen.rewards, entropies=seen.entropies, best_average=seen.recent_average, num_seen=seen.num_seen
        )

    def reason_to_stop(self) -> str:
        """A sentence, or empty while it goes well."""
        if self.num_seen < FEWEST:
            return ""
        if self.recent_average < (1 - LARGEST_FALL) * self.best_average:
            return (
                f"The reward fell: {self.recent_average:.3f} over the last {FEWEST} updates, "
                f"{self.best_average:.3f} at its best. Lower the learning rate or the clip range."
            )
        if max(self.entropies) < LEAST_ENTROPY:
            return (
                f"The entropy is gone: under {LEAST_ENTROPY} nats for {ENTROPY_WINDOW} updates, so all answers are "
                f"alike and nothing is left to learn from. Raise the entropy weight, or begin from another checkpoint."
            )
        return ""


def slope(values: Sequence[float]) -> float:
    """Of the straight line nearest to `values` at 0, 1, 2, …; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    over = sum((place - middle) * (value - mean) for place, value in enumerate(values))
    return over / sum((place - middle) ** 2 for place in range(len(values)))
