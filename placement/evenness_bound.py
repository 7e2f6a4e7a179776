"""How even devices could be at best: replicas may be cut like water here, but not their starts.

Whoever holds a part of a replica has room for its start, so water that starts small fills devices better. By Lagrange:
where a device has a price, no fill of it is worth more to the bytes in it than the price and its unevenness together.
The prices of devices are searched, what bytes are worth follows from them. The bound is in whole numbers and holds
whatever the prices are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from placement.exact_model import FULL, TANGENT_STEP
from placement.problem import Answer, Problem
from placement.score import levels

STEPS = 22
"""Of the search for the best prices; each leaves the golden part of what was left."""
GOLDEN = (5**0.5 - 1) / 2
STEEPEST = 8
"""The dearest byte that is tried, in prices of the last byte of a full device."""
MAX_TRIED = 5_000
"""Starts times corners looked at in one step; where there are more, starts are rounded down."""
PARTS = 1 << 64
"""Of a unit of unevenness, in what a byte is worth."""

Types = tuple[str, ...]
"""The device types a demand names."""


class _Corner(NamedTuple):
    """Where one tangent takes over from another, or the budget ends: bytes at the peak, and what they cost."""

    peak_bytes: int
    cost: int


class _Sort(NamedTuple):
    """`num` devices that are alike, for demands that name one of `types`."""

    total_bytes: int
    corners: tuple[_Corner, ...]
    types: frozenset[Types]
    num: int


class _Asked(NamedTuple):
    """`num` replicas of a demand, by its number; each with so many bytes at rest on all its devices."""

    demand: int
    num: int
    rest_bytes: int


def least_unevenness(problem: Problem, answer: Answer) -> int:
    """No answer that serves as many replicas of every priority as this one is more even."""
    bound = _Bound(problem, answer)
    if not bound.sorts:
        return 0
    low, high = 0.0, bound.steepest
    lower, higher = high - GOLDEN * high, GOLDEN * high
    at_lower, at_higher = bound.at(lower), bound.at(higher)
    best = max(0, at_lower, at_higher)
    for _ in range(STEPS):
        if at_lower < at_higher:
            low, lower, at_lower = lower, higher, at_higher
            higher = low + GOLDEN * (high - low)
            at_higher = bound.at(higher)
        else:
            high, higher, at_higher = higher, lower, at_lower
            lower = high - GOLDEN * (high - low)
            at_lower = bound.at(lower)
        best = max(best, at_lower, at_higher)
    return best


class _Bound:
    def __init__(self, problem: Problem, answer: Answer) -> None:
        self.sorts = list(_sorts(problem))
        self.steepest = STEEPEST * 2 * FULL * FULL / min((sort.total_bytes for sort in self.sorts), default=1)
        self._starts = _starts(problem, sum(len(sort.corners) for sort in self.sorts))
        self._types = [demand.device_types for demand in problem.demands]
        self._levels = [
            ([_asked(problem, index) for index in level], sum(len(answer.sets[index]) for index in level))
            for _, level in levels(problem)
        ]
        asked = [ask for level, _ in self._levels for ask in level]
        num_bytes = sum(ask.num * ask.rest_bytes for ask in asked)
        starting = sum(ask.num * ask.rest_bytes * self._starts[ask.demand] for ask in asked)
        self._mean_start = starting // max(1, num_bytes)

    def at(self, per_byte: float) -> int:
        """The bound where a byte costs so much on every device that is neither full nor empty."""
        prices = [self._price(sort, per_byte) for sort in self.sorts]
        keys = dict.fromkeys(zip(self._starts, self._types, strict=True))
        worths = {key: self._worth(*key, prices) for key in keys}
        bound = -sum(sort.num * price for sort, price in zip(self.sorts, prices, strict=True))
        for level, num_served in self._levels:
            each = [ask.rest_bytes * worths[self._starts[ask.demand], self._types[ask.demand]] for ask in level]
            bound += _cheapest([(worth // PARTS, ask.num) for worth, ask in zip(each, level, strict=True)], num_served)
        return bound

    def _price(self, sort: _Sort, per_byte: float) -> int:
        gains = (int(per_byte * (corner.peak_bytes - self._mean_start)) - corner.cost for corner in sort.corners)
        return max(0, *gains)

    def _worth(self, start: int, types: Types, prices: Sequence[int]) -> int:
        """Most that a byte with this start may be worth, in parts, so that no device is filled with them at a gain."""
        return min(
            (
                (price + corner.cost) * PARTS // (corner.peak_bytes - start)
                for sort, price in zip(self.sorts, prices, strict=True)
                if types in sort.types
                for corner in sort.corners
                if corner.peak_bytes > start
            ),
            default=0,
        )


def _sorts(problem: Problem) -> Iterator[_Sort]:
    takes: dict[int, frozenset[Types]] = {}
    for types, index in {demand.device_types: index for index, demand in enumerate(problem.demands)}.items():
        for number in (number for of_node in problem.allowed[index] for number in of_node):
            takes[number] = takes.get(number, frozenset()) | {types}
    like: dict[tuple[int, int, frozenset[Types]], int] = {}
    for number, of_device in takes.items():
        key = problem.devices[number].total_bytes, problem.budgets[number], of_device
        like[key] = like.get(key, 0) + 1
    for (total, budget, of_device), num in like.items():
        if budget > 0:
            yield _Sort(total, tuple(_corners(total, budget)), of_device, num)


def _corners(total_bytes: int, budget: int) -> Iterator[_Corner]:
    """Bytes are rounded up and costs down, which only lowers what a byte may be worth."""
    for at in range(0, FULL, TANGENT_STEP):
        peak = -(-(2 * at + TANGENT_STEP) * total_bytes // (2 * FULL))
        if peak >= budget:
            break
        yield _Corner(peak, at * (at + TANGENT_STEP))
    tangents = range(0, FULL + 1, TANGENT_STEP)
    yield _Corner(budget, max(2 * at * FULL * budget // total_bytes - at * at for at in tangents))


def _starts(problem: Problem, num_corners: int) -> list[int]:
    """By demand: its start, rounded down where there are too many of them."""
    starts = [need.start_bytes for need in problem.needs]
    at_most = max(1, MAX_TRIED // max(1, num_corners))
    step = max(starts) // at_most + 1 if len(set(starts)) > at_most else 1
    return [start // step * step for start in starts]


def _asked(problem: Problem, index: int) -> _Asked:
    demand, need = problem.demands[index], problem.needs[index]
    return _Asked(index, demand.num_replicas, (need.rest_bytes - problem.max_offloads[index]) * demand.tensor_parallel)


def _cheapest(costs: Sequence[tuple[int, int]], num_served: int) -> int:
    """Sum over so many replicas, the cheapest of them; `costs` are of one replica, with their number."""
    total, left = 0, num_served
    for cost, num in sorted(costs):
        total += cost * min(num, left)
        left -= min(num, left)
    return total
