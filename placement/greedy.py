"""A fast answer for any size: priority order, keep what runs, then the best fitting device set.

Because a demand only ever sees the shares of demands served before it, a lower priority can never push out a
higher one. Not always optimal within one priority; `exact.py` is, where the instance is small enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import NamedTuple

from placement.feasible import EMPTY, Load, fits
from placement.policy import Goal
from placement.problem import Answer, DeviceSet, Problem, loads_of, set_cost

MAX_SETS_PER_NODE = 256
"""Beyond this many sets of one node, only the set grown around each device is tried."""


class _Scored(NamedTuple):
    """Smaller is better; ties go to the first devices of the inventory."""

    score: tuple[float, ...]
    devices: DeviceSet


class _Table:
    """The state while placing: `placed` loads, `pending` loads of lower priorities that run and may stay.

    `siblings` counts the replicas of the demand in hand per device.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.placed = [EMPTY for _ in problem.devices]
        self.pending = self.placed
        self.siblings: Counter[int] = Counter()

    def turn_to(self, index: int) -> None:
        """The next demand: its own replicas wait no longer, those after it still do."""
        waiting = [
            sets[: demand.num_replicas] if later > index else ()
            for later, (demand, sets) in enumerate(zip(self.problem.demands, self.problem.running, strict=True))
        ]
        self.pending = loads_of(self.problem, waiting) if any(waiting) else [EMPTY for _ in self.problem.devices]
        self.siblings = Counter()

    def fits(self, number: int, need: Load) -> bool:
        return fits(self.problem.budgets[number], self.placed[number], need)

    def displaces(self, number: int, need: Load) -> bool:
        """True if a running replica of lower priority would have to leave this device."""
        pending = self.pending[number]
        both = self.placed[number].plus(pending)
        return pending != EMPTY and not fits(self.problem.budgets[number], both, need)

    def left_bytes(self, number: int, need: Load) -> int:
        return self.problem.budgets[number] - self.placed[number].plus(need).peak_bytes

    def place(self, devices: DeviceSet, need: Load) -> None:
        for number in devices:
            self.placed[number] = self.placed[number].plus(need)
        self.siblings.update(devices)


def solve_greedy(problem: Problem) -> Answer:
    table, sets = _Table(problem), []
    for index in range(len(problem.demands)):
        table.turn_to(index)
        kept = _keep_running(table, index)
        sets.append(
            tuple(kept + _place_missing(table, index, num_missing=problem.demands[index].num_replicas - len(kept)))
        )
    return Answer(tuple(sets), "greedy", None)


def _keep_running(table: _Table, index: int) -> list[DeviceSet]:
    demand, need, kept = table.problem.demands[index], table.problem.needs[index], list[DeviceSet]()
    for devices in table.problem.running[index]:
        if len(kept) < demand.num_replicas and all(table.fits(number, need) for number in devices):
            table.place(devices, need)
            kept.append(devices)
    return kept


def _place_missing(table: _Table, index: int, *, num_missing: int) -> list[DeviceSet]:
    """The best set of each node is remembered, and sought anew only in the node that was just placed on."""
    placed = list[DeviceSet]()
    bests = [_best_of_node(table, index, usable) for usable in table.problem.usable] if num_missing > 0 else []
    while len(placed) < num_missing:
        best = min((best for best in bests if best), default=None)
        if best is None:
            break
        table.place(best.devices, table.problem.needs[index])
        placed.append(best.devices)
        node = bests.index(best)
        bests[node] = _best_of_node(table, index, table.problem.usable[node])
    return placed


def _best_of_node(table: _Table, index: int, usable: DeviceSet) -> _Scored | None:
    need = table.problem.needs[index]
    numbers = tuple(number for number in usable if table.fits(number, need))
    sets = _sets(table.problem, numbers, table.problem.demands[index].tensor_parallel)
    return min((_Scored(_score(table, need, devices), devices) for devices in sets), default=None)


def _sets(problem: Problem, numbers: DeviceSet, size: int) -> Iterator[DeviceSet]:
    if comb(len(numbers), size) <= MAX_SETS_PER_NODE:
        yield from combinations(numbers, size)
    else:
        yield from (_grow(problem, numbers, seed, size) for seed in numbers)


def _grow(problem: Problem, numbers: DeviceSet, seed: int, size: int) -> DeviceSet:
    """The set around `seed` that takes the nearest neighbour at each step."""
    grown: DeviceSet = (seed,)
    while len(grown) < size:
        rest = (number for number in numbers if number not in grown)
        nearest = min(rest, key=lambda number: (set_cost(problem, (*grown, number)), number))
        grown = (*grown, nearest)
    return tuple(sorted(grown))


def _score(table: _Table, need: Load, devices: DeviceSet) -> tuple[float, ...]:
    displaced = sum(table.displaces(number, need) for number in devices)
    together = sum(table.siblings[number] for number in devices)
    shape = _pack_score if table.problem.policy.goal is Goal.PACK else _spread_score
    return (displaced, together, set_cost(table.problem, devices), *shape(table, need, devices))


def _pack_score(table: _Table, need: Load, devices: DeviceSet) -> tuple[float, ...]:
    opened = sum(table.placed[number] == EMPTY for number in devices)
    return (opened, sum(table.left_bytes(number, need) for number in devices))


def _spread_score(table: _Table, need: Load, devices: DeviceSet) -> tuple[float, ...]:
    totals = table.problem.devices
    return (-min(table.left_bytes(number, need) / max(1, totals[number].total_bytes) for number in devices),)
