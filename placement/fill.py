"""The most valuable fill of one device: a knapsack in which only the largest start counts.

Bytes are put on a grid, so that the work is bounded whatever the sizes are: rounded up for a fill, which therefore
always fits, and down for the bound, which no fill exceeds. Where all sizes are multiples of something coarse enough the
grid is exact and both agree. Starts go by levels, for each level the fills whose largest start lies in it.

Knows nothing of demands, goals or linear programs, and has no limit in time: the grid is the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

from ortools.algorithms.python import knapsack_solver

CELLS_PER_WORK = 500
WORK_PER_THING = 4
EXACT_GRID = 2000
"""An exact grid may be so fine whatever was asked for."""
MAX_SWAPS = 8

Fill = tuple[tuple[int, int], ...]
"""(number of the thing, how many of it), ascending numbers, every count at least 1."""


class Fineness(NamedTuple):
    """`grid` steps a device's room is divided in, unless its sizes share a coarser unit, and levels of starts.

    Without `bounds` the grid that rounds down is left out: half the work, and no bound unless the grid is exact.
    """

    grid: int
    num_levels: int
    bounds: bool


class Thing(NamedTuple):
    """Up to `most` of these may lie on the device; `number` is the caller's."""

    number: int
    value: int
    rest_bytes: int
    start_bytes: int
    most: int


@dataclass(frozen=True, slots=True)
class Found:
    """The best fill known, its `value`, and the `bound` that no fill exceeds, None if unknown; `work` done."""

    fill: Fill
    value: int
    bound: int | None
    work: int


class _Level(NamedTuple):
    """Fills whose largest start, the neighbour's included, is above `above` and at most `most`."""

    least: int
    most: int


def best_fill(things: Sequence[Thing], *, room: int, start: int, fineness: Fineness) -> Found:
    """The most valuable fill of `room` bytes, the largest start included, beside a neighbour's `start`."""
    fitting = [t for t in things if t.most > 0 and t.value > 0 and t.rest_bytes + max(start, t.start_bytes) <= room]
    best = Found((), 0, 0, 1)
    for level in _levels(sorted({max(start, thing.start_bytes) for thing in fitting}), fineness.num_levels):
        found = _of_level([t for t in fitting if t.start_bytes <= level.most], level, room, fineness)
        better = found if found.value > best.value else best
        bound = None if found.bound is None or best.bound is None else max(found.bound, best.bound)
        best = Found(better.fill, better.value, bound, best.work + found.work)
    return best


def _levels(starts: Sequence[int], at_most: int) -> Iterator[_Level]:
    num = min(at_most, len(starts))
    for number in range(num):
        members = starts[number * len(starts) // num : (number + 1) * len(starts) // num]
        yield _Level(members[0], members[-1])


def _of_level(things: Sequence[Thing], level: _Level, room: int, fineness: Fineness) -> Found:
    """Exact when the best fill on the grid that rounds down fits in bytes too; else what the other grid gives."""
    most, grid = room - level.most, fineness.grid
    unit = gcd(*(thing.rest_bytes for thing in things))
    if unit and most // unit <= max(grid, EXACT_GRID) and level.least == level.most:
        return _dynamic(things, [thing.rest_bytes // unit for thing in things], most // unit)
    loose = _loosely(things, level, room, grid) if fineness.bounds else None
    if loose is not None and _fits(things, loose.fill, room, level):
        return loose
    up = [-(-thing.rest_bytes * grid // max(1, most)) for thing in things]
    tight = _dynamic(things, up, grid)
    fill, value = _topped_up(things, dict(tight.fill), level, room)
    return Found(fill, value, loose.value if loose else None, tight.work + (loose.work if loose else 0))


def _loosely(things: Sequence[Thing], level: _Level, room: int, grid: int) -> Found:
    """A fill of this level is worth no more; it may not fit."""
    rooms = [max(1, room - max(level.least, thing.start_bytes)) for thing in things]
    return _dynamic(things, [t.rest_bytes * grid // own for t, own in zip(things, rooms, strict=True)], grid)


def _topped_up(things: Sequence[Thing], counts: dict[int, int], level: _Level, room: int) -> tuple[Fill, int]:
    """The fill with things swapped for more valuable ones, or added, as long as that fits in bytes."""
    by_number = {thing.number: thing for thing in things}
    dearest_first = sorted(things, key=lambda thing: -thing.value)
    spare = room - level.most - sum(by_number[number].rest_bytes * count for number, count in counts.items())
    for _ in range(MAX_SWAPS):
        swap = _best_swap(by_number, dearest_first, counts, spare)
        if swap is None:
            break
        out, new = swap
        if out is not None:
            counts[out.number] -= 1
        counts[new.number] = counts.get(new.number, 0) + 1
        spare += (out.rest_bytes if out else 0) - new.rest_bytes
    fill = tuple(sorted((number, count) for number, count in counts.items() if count))
    return fill, sum(by_number[number].value * count for number, count in fill)


def _best_swap(
    by_number: dict[int, Thing], dearest_first: Sequence[Thing], counts: dict[int, int], spare: int
) -> tuple[Thing | None, Thing] | None:
    """What to take out, if anything, and what to put in, so that most is gained."""
    best, most = None, 0
    for out in (None, *(by_number[number] for number, count in counts.items() if count)):
        room = spare + (out.rest_bytes if out else 0)
        worth = out.value if out else 0
        for new in dearest_first:
            if new.value - worth <= most:
                break
            if new.rest_bytes <= room and new is not out and counts.get(new.number, 0) < new.most:
                best, most = (out, new), new.value - worth
                break
    return best


def _fits(things: Sequence[Thing], fill: Fill, room: int, level: _Level) -> bool:
    by_number = {thing.number: thing for thing in things}
    rest = sum(by_number[number].rest_bytes * count for number, count in fill)
    return rest + max([level.least, *(by_number[number].start_bytes for number, _ in fill)]) <= room


def _dynamic(things: Sequence[Thing], sizes: Sequence[int], capacity: int) -> Found:
    """By dynamic programming; a thing that may lie there often becomes bundles of 1, 2, 4, ... of it.

    What has no size is all taken beforehand: OR-Tools 9.15 miscounts it.
    """
    counts = {thing.number: thing.most for thing, size in zip(things, sizes, strict=True) if size == 0}
    free = sum(thing.value * thing.most for thing, size in zip(things, sizes, strict=True) if size == 0)
    bundles = list(_bundles(things, sizes, capacity))
    solver = knapsack_solver.KnapsackSolver(
        knapsack_solver.SolverType.KNAPSACK_DYNAMIC_PROGRAMMING_SOLVER, "fill of a device"
    )
    values = [things[position].value * count for position, count in bundles]
    solver.init(values, [[sizes[position] * count for position, count in bundles]], [capacity])
    value = free + solver.solve()
    for bundle, (position, count) in enumerate(bundles):
        if solver.best_solution_contains(bundle):
            number = things[position].number
            counts[number] = counts.get(number, 0) + count
    work = 1 + len(things) * WORK_PER_THING + len(bundles) * capacity // CELLS_PER_WORK
    return Found(tuple(sorted(counts.items())), value, value, work)


def _bundles(things: Sequence[Thing], sizes: Sequence[int], capacity: int) -> Iterator[tuple[int, int]]:
    """Positions and counts that add up to every number of a thing with a size that could lie there."""
    for position, (thing, size) in enumerate(zip(things, sizes, strict=True)):
        most = min(thing.most, capacity // size) if size else 0
        power = 1
        while most > 0:
            yield position, min(power, most)
            most -= power
            power *= 2
