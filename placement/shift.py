"""Room for a refused replica by moving one other away: a single move where a search over everything would move many.

Treats replicas on one device with nothing offloaded, on nodes where cores and host memory are not asked for. What it
cannot place is left refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from placement.feasible import Load, fits, sum_loads
from placement.problem import Answer, DeviceSet, Problem

MAX_SHIFTS = 64
"""Refused replicas tried; each costs a look at every device."""


class _Shift(NamedTuple):
    """Smaller is better: running replicas moved, devices opened, room left over; then who goes from where to where."""

    num_moves: int
    num_opened: int
    left_bytes: int
    number: int
    leaves: int
    goes_to: int


def shifted(problem: Problem, answer: Answer) -> Answer:
    """The answer with more served, as far as moving one replica makes room for each; else the answer itself."""
    asks_beside = any(demand.cpu_millis or demand.host_memory_bytes for demand in problem.demands)
    if asks_beside or any(any(offloads) for offloads in answer.offloads):
        return answer
    board = _Board(problem, answer)
    for index in board.refused():
        shift = min(board.shifts(index), default=None)
        if shift is not None:
            board.do(index, shift)
    sets = tuple(tuple(of_demand) for of_demand in board.sets)
    return answer if sets == answer.sets else replace(answer, sets=sets, goals=(), gap=None)


class _Board:
    """Which demands have a replica where. `here[d]` holds demand numbers, those over several devices too."""

    def __init__(self, problem: Problem, answer: Answer) -> None:
        self.problem = problem
        self.sets = [list(of_demand) for of_demand in answer.sets]
        self.here: list[list[int]] = [[] for _ in problem.devices]
        for index, sets in enumerate(self.sets):
            for number in (number for devices in sets for number in devices):
                self.here[number].append(index)

    def refused(self) -> Iterator[int]:
        """One demand number per refused replica on one device, the highest priorities first, up to the limit."""
        num = 0
        for index, demand in enumerate(self.problem.demands):
            for _ in range(demand.num_replicas - len(self.sets[index]) if demand.tensor_parallel == 1 else 0):
                num += 1
                if num > MAX_SHIFTS:
                    return
                yield index

    def shifts(self, index: int) -> Iterator[_Shift]:
        """Each way to make room for one more replica of the demand by moving one other."""
        homes = dict[int, tuple[int, int, int] | None]()
        for number in (number for of_node in self.problem.allowed[index] for number in of_node):
            for leaves in self._movable(number):
                if not self._fits(number, index, without=leaves):
                    continue
                if leaves not in homes:
                    homes[leaves] = self._home(leaves)
                home = homes[leaves]
                if home is not None and home[2] != number:
                    moves = self.problem.running[leaves].count((number,)) >= self.sets[leaves].count((number,))
                    yield _Shift(int(moves), home[0], home[1], number, leaves, home[2])

    def do(self, index: int, shift: _Shift) -> None:
        self.sets[shift.leaves].remove((shift.number,))
        self.sets[shift.leaves].append((shift.goes_to,))
        self.here[shift.number].remove(shift.leaves)
        self.here[shift.goes_to].append(shift.leaves)
        self.sets[index].append((shift.number,))
        self.here[shift.number].append(index)

    def _movable(self, number: int) -> Iterator[int]:
        alone: DeviceSet = (number,)
        return (index for index in dict.fromkeys(self.here[number]) if alone in self.sets[index])

    def _home(self, index: int) -> tuple[int, int, int] | None:
        """Where one replica of the demand could go as things are: devices opened, bytes left, device."""
        need, homes = self.problem.needs[index], list[tuple[int, int, int]]()
        for number in (number for of_node in self.problem.allowed[index] for number in of_node):
            if index not in self.here[number] and self._fits(number, index):
                left = self.problem.budgets[number] - self._load(number).plus(need).peak_bytes
                homes.append((int(not self.here[number]), left, number))
        return min(homes, default=None)

    def _fits(self, number: int, index: int, *, without: int | None = None) -> bool:
        return fits(self.problem.budgets[number], self._load(number, without=without), self.problem.needs[index])

    def _load(self, number: int, *, without: int | None = None) -> Load:
        others = list(self.here[number])
        if without is not None:
            others.remove(without)
        return sum_loads(self.problem.needs[index] for index in others)
