"""From decided patterns back to device sets, share by share and each checked: what comes out can be.

The replicas that a search left where they are go first; then every decided pattern takes the next device of its sort.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from placement.classes import Classes
from placement.dive import Decided
from placement.problem import Answer, DeviceSet, Problem
from placement.table import Pending, Table

SOLVER = "patterns"

Seat = tuple[DeviceSet, int]
"""Where one replica lies, and what it offloads per device."""
Seats = tuple[tuple[Seat, ...], ...]
"""Per demand."""


def rebuild(problem: Problem, stays: Seats, classes: Classes, decided: Decided, asked: Sequence[int]) -> Answer:
    """`stays` remain, `asked[i]` more replicas of demand i are placed as decided, or else wherever there is room."""
    building = _Building(problem, stays, asked)
    for sort, devices in enumerate(classes.devices):
        free = list(devices)
        fills = [column.fill for column, times in decided if column.sort == sort for _ in range(times)]
        for fill in sorted(fills, key=lambda fill: -sum(count for _, count in fill)):
            wanted = [(classes.members[kind], count) for kind, count in fill]
            number = next((number for number in free if building.has_room_beside(number, wanted)), None)
            if number is not None:
                free.remove(number)
                building.fill(number, wanted)
    building.place_left()
    return building.answer()


class _Building:
    def __init__(self, problem: Problem, stays: Seats, asked: Sequence[int]) -> None:
        self.problem, self.left = problem, list(asked)
        self.table = Table(problem, Pending(problem, [() for _ in problem.demands]))
        for index, seats in enumerate(stays):
            for devices, offload in seats:
                self.table.place(index, devices, offload)
        self.asks_beside = any(d.cpu_millis or d.host_memory_bytes for d in problem.demands)

    def has_room_beside(self, number: int, wanted: Sequence[tuple[Sequence[int], int]]) -> bool:
        """Whether the node has the cores and the host memory for the whole pattern."""
        if not self.asks_beside:
            return True
        node, demands = self.problem.node_of[number], self.problem.demands
        cpu = sum(demands[members[0]].cpu_millis * count for members, count in wanted)
        host = sum(demands[members[0]].host_memory_bytes * count for members, count in wanted)
        budget = self.problem.nodes[node]
        return self.table.cpu[node] + cpu <= budget.cpu_millis and self.table.host[node] + host <= budget.memory_bytes

    def fill(self, number: int, wanted: Sequence[tuple[Sequence[int], int]]) -> None:
        """Of demands that are alike, those with most replicas left go first: they need the most devices."""
        for members, count in wanted:
            for index in sorted(members, key=lambda index: -self.left[index])[:count]:
                self._place(index, number)
            crowded = count - len(members)
            while crowded > 0 and self._place(max(members, key=lambda index: self.left[index]), number):
                crowded -= 1

    def _place(self, index: int, number: int) -> bool:
        if self.left[index] <= 0 or not self.table.takes(index, (number,)):
            return False
        self.table.place(index, (number,))
        self.left[index] -= 1
        return True

    def place_left(self) -> None:
        """What found no place goes where it shares with fewest of its demand, on a device in use, and fits best."""
        for index in (index for index, left in enumerate(self.left) if left > 0):
            while self.left[index] > 0:
                siblings = Counter(share.devices[0] for share in self.table.shares[index])
                best = min(self._places(index, siblings), default=None)
                if best is None or not self._place(index, best[-1]):
                    break

    def _places(self, index: int, siblings: Counter[int]) -> list[tuple[int, int, bool, int, int]]:
        table, budgets = self.table, self.problem.budgets
        return [
            (siblings[n], table.costs[n], not table.on_device[n], budgets[n] - table.rest[n] - table.start[n], n)
            for of_node in self.problem.allowed[index]
            for n in of_node
            if self.table.takes(index, (n,))
        ]

    def answer(self) -> Answer:
        shares = self.table.shares
        sets = tuple(tuple(share.devices for share in of_demand) for of_demand in shares)
        offloads = tuple(tuple(share.offload_bytes for share in of_demand) for of_demand in shares)
        return Answer(sets, SOLVER, None, offloads if any(map(any, offloads)) else ())
