"""A fast answer for any size: priority order, keep what runs, then the best fitting device set.

Because a demand only ever sees the shares of demands served before it, a lower priority can never push out a
higher one. Not always optimal within one priority; `exact.py` is, where the instance is small enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb

from placement.demand import Demand
from placement.feasible import Load, fits
from placement.policy import Goal
from placement.problem import Answer, DeviceSet, Problem, set_cost

MAX_SETS_PER_NODE = 256
"""Beyond this many sets of one node, only the set grown around each device is tried."""

Score = tuple[float, ...]


class _Loads:
    """Loads while placing: `placed` for what is decided, `pending` for lower priorities that run and may stay."""

    def __init__(self, problem: Problem) -> None:
        self.placed = [Load() for _ in problem.devices]
        self.pending = [Load() for _ in problem.devices]

    def expect_running(self, problem: Problem, *, from_demand: int) -> None:
        self.pending = [Load() for _ in problem.devices]
        for demand, sets in zip(problem.demands[from_demand:], problem.running[from_demand:], strict=True):
            for devices in sets[: demand.num_replicas]:
                _add(self.pending, devices, demand)

    def displaces(self, problem: Problem, number: int, demand: Demand) -> bool:
        """True if a running replica of lower priority would have to leave this device."""
        placed, pending = self.placed[number].plus(demand.estimate), self.pending[number]
        both = Load(placed.rest_bytes + pending.rest_bytes, max(placed.start_bytes, pending.start_bytes))
        return pending != Load() and both.peak_bytes > problem.budgets[number]


def solve_greedy(problem: Problem) -> Answer:
    loads = _Loads(problem)
    sets = []
    for index, demand in enumerate(problem.demands):
        loads.expect_running(problem, from_demand=index + 1)
        kept = _keep_running(problem, loads, index)
        sets.append(tuple(kept + _place_missing(problem, loads, demand, kept)))
    return Answer(tuple(sets), "greedy", None)


def _keep_running(problem: Problem, loads: _Loads, index: int) -> list[DeviceSet]:
    demand, kept = problem.demands[index], list[DeviceSet]()
    for devices in problem.running[index]:
        if len(kept) < demand.num_replicas and _set_fits(problem, loads, devices, demand):
            _add(loads.placed, devices, demand)
            kept.append(devices)
    return kept


def _place_missing(problem: Problem, loads: _Loads, demand: Demand, kept: list[DeviceSet]) -> list[DeviceSet]:
    placed = list[DeviceSet]()
    while len(kept) + len(placed) < demand.num_replicas:
        candidates = _candidates(problem, loads, demand)
        siblings = [number for devices in kept + placed for number in devices]
        best = min(candidates, key=lambda c: _score(problem, loads, demand, c, siblings), default=None)
        if best is None:
            break
        _add(loads.placed, best, demand)
        placed.append(best)
    return placed


def _candidates(problem: Problem, loads: _Loads, demand: Demand) -> Iterator[DeviceSet]:
    size = demand.tensor_parallel
    for usable in problem.usable:
        numbers = tuple(n for n in usable if fits(problem.budgets[n], loads.placed[n], demand.estimate))
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


def _score(problem: Problem, loads: _Loads, demand: Demand, devices: DeviceSet, siblings: list[int]) -> Score:
    """Smaller is better; ties go to the first devices of the inventory."""
    displaced = sum(loads.displaces(problem, number, demand) for number in devices)
    together = sum(siblings.count(number) for number in devices)
    shape = _pack_score if problem.policy.goal is Goal.PACK else _spread_score
    return (displaced, together, set_cost(problem, devices), *shape(problem, loads, demand, devices), *devices)


def _pack_score(problem: Problem, loads: _Loads, demand: Demand, devices: DeviceSet) -> Score:
    opened = sum(loads.placed[number] == Load() for number in devices)
    left = sum(_left_bytes(problem, loads, demand, number) for number in devices)
    return (opened, left)


def _spread_score(problem: Problem, loads: _Loads, demand: Demand, devices: DeviceSet) -> Score:
    return (-min(_left_bytes(problem, loads, demand, n) / max(1, problem.devices[n].total_bytes) for n in devices),)


def _left_bytes(problem: Problem, loads: _Loads, demand: Demand, number: int) -> int:
    return problem.budgets[number] - loads.placed[number].plus(demand.estimate).peak_bytes


def _set_fits(problem: Problem, loads: _Loads, devices: DeviceSet, demand: Demand) -> bool:
    return all(fits(problem.budgets[n], loads.placed[n], demand.estimate) for n in devices)


def _add(loads: list[Load], devices: DeviceSet, demand: Demand) -> None:
    for number in devices:
        loads[number] = loads[number].plus(demand.estimate)
