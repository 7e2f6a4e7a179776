"""Which idle models go to sleep so that others find room. Pure; the solver itself says whether it is enough."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from placement.plan import Plan

PlanWithout = Callable[[frozenset[str]], Plan]
"""The plan when these models do not run."""


def who_goes(plan_without: PlanWithout, *, needed: Collection[str], candidates: Sequence[str]) -> frozenset[str]:
    """The candidates to put to sleep so that all of `needed` run and nobody else loses their place.

    As few from the front of `candidates` as make room, less those among them that need not go. Empty when nobody has
    to go, and also when all together do not make room: then priority alone decides.
    """
    if not needed:
        return frozenset()
    others = refused(plan_without(frozenset(needed)))
    going = [one for one in candidates if one not in needed]

    def fits(gone: Collection[str]) -> bool:
        return refused(plan_without(frozenset(gone))) <= others

    if fits([]) or not fits(going):
        return frozenset()
    chosen = going[: _fewest(lambda count: fits(going[:count]), len(going))]
    for one in reversed(chosen[:-1]):
        fewer = [other for other in chosen if other != one]
        if fits(fewer):
            chosen = fewer
    return frozenset(chosen)


def refused(plan: Plan) -> set[str]:
    return {refusal.model for refusal in plan.refusals}


def _fewest(enough: Callable[[int], bool], most: int) -> int:
    """The smallest count that is enough; `most` is known to be."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low
