"""How sure a difference in accuracy is when both answered the same questions. Pure; standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TAIL: Final = 0.025
"""Beyond each end of a 95 % interval."""
_HALVINGS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Accuracy of the new less that of the old, with its 95 % interval.

    `num_won` questions only the new one answered right, `num_lost` only the old one.
    """

    num_won: int
    num_lost: int
    num_asked: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return (self.num_won - self.num_lost) / self.num_asked if self.num_asked else 0.0


def difference(new: tuple[bool, ...], old: tuple[bool, ...]) -> Difference:
    """Of two answers to each question of one test set.

    The interval is exact and belongs to McNemar's exact test: given that m questions were answered differently, the
    number won is binomial, whose chance has Clopper and Pearson's interval; m of n scales it. Its ends are 0 where
    nothing was answered differently, which says nothing of questions that were not asked.
    Source: McNemar (1947); Clopper and Pearson (1934).
    """
    assert len(new) == len(old), "two test sets cannot be compared"
    num_won = sum(mine and not theirs for mine, theirs in zip(new, old, strict=True))
    num_lost = sum(theirs and not mine for mine, theirs in zip(new, old, strict=True))
    changed = num_won + num_lost
    share = changed / len(new) if new else 0.0
    low, high = chance_interval(num_won, changed)
    return Difference(
        num_won=num_won,
        num_lost=num_lost,
        num_asked=len(new),
        low=share * (2 * low - 1) if changed else 0.0,
        high=share * (2 * high - 1) if changed else 0.0,
    )


def chance_interval(num_won: int, num_tried: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of the chance behind `num_won` of `num_tried`; (0, 1) for no try."""
    low = 0.0
    if num_won > 0:
        low = _root(lambda chance: _at_least(num_won, num_tried, chance) < TAIL)
    high = 1.0
    if num_won < num_tried:
        high = 1 - _root(lambda chance: _at_least(num_tried - num_won, num_tried, chance) < TAIL)
    return low, high


def _root(is_below: Callable[[float], bool]) -> float:
    """Where `is_below`, true at 0 and false at 1, turns; the end that is still below."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


def _at_least(num_won: int, num_tried: int, chance: float) -> float:
    """Probability of `num_won` or more successes."""
    if chance in (0.0, 1.0):
        return chance
    yes, no = math.log(chance), math.log1p(-chance)
    whole = math.lgamma(num_tried + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(won + 1) - math.lgamma(num_tried - won + 1) + won * yes + (num_tried - won) * no)
        for won in range(num_won, num_tried + 1)
    )
