"""A fast answer for any size: priority after priority, keep what runs, then the best fitting device set.

Because a demand only ever sees the shares of demands served before it, a lower priority can never push out a
higher one; because all that runs of a priority is kept before anything of it is placed, neither can an equal.
Not always optimal within one priority; `exact.py` is, where the instance is small enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import combinations, groupby
from math import comb

from placement.deadline import NO_DEADLINE, Deadline
from placement.feasible import Load
from placement.policy import Goal
from placement.problem import Answer, DeviceSet, Problem, set_cost
from placement.squeeze import squeeze_in
from placement.table import Pending, Seat, Seats, Table

SOLVER = "greedy"

MAX_SETS_PER_NODE = 256
"""Beyond this many sets of one node, only the set grown around each device is tried."""

MAX_REFILLED = 200_000
"""Demands x devices above which a filling that refuses something is not tried again in other orders."""

Item = tuple[float, float, float, float, float, float, DeviceSet]
"""A score, smaller is better, and the set it belongs to; ties go to the first devices of the inventory."""

Order = Callable[[Problem, int], float]
"""Within a priority, demands with smaller figures are placed first."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to fill the fleet. `packs` whatever the policy wants: what is served comes before how it is spread."""

    order: Order
    packs: bool


def ways_of(problem: Problem) -> list[Way]:
    """As asked; packed with the largest first; packed with the most served per byte first."""
    ways = [
        Way(lambda problem, index: index, problem.policy.goal is Goal.PACK),
        Way(lambda problem, index: -problem.needs[index].peak_bytes * problem.demands[index].tensor_parallel, True),
        Way(lambda problem, index: problem.needs[index].peak_bytes / problem.weights[index], True),
    ]
    return ways if _is_quick(problem) else ways[::2]


def _is_quick(problem: Problem) -> bool:
    return len(problem.demands) * len(problem.devices) <= MAX_REFILLED


def solve_greedy(problem: Problem, deadline: Deadline = NO_DEADLINE) -> Answer:
    """The best of a few fillings, the first when they are equal; only one when it serves all or time is over."""
    ways, runs = (
        ways_of(problem),
        [seats_of(*both) for both in zip(problem.running, problem.running_offloads, strict=True)],
    )
    table = fill(problem, ways[0], [runs], may_squeeze=False)
    if _serves_all(table) or deadline.is_over:
        return answer_of(table)
    if any(problem.max_offloads):
        few = ways if _is_quick(problem) else ways[:1]
        return answer_of(max((fill(problem, way, [runs], may_squeeze=True) for way in few), key=worth_of))
    tables = [table, *(fill(problem, way, [runs], may_squeeze=False) for way in ways[1:])]
    return answer_of(max(tables, key=worth_of))


def seats_of(sets: Sequence[DeviceSet], offloads: Sequence[int]) -> list[Seat]:
    return list(zip(sets, offloads, strict=True))


def _serves_all(table: Table) -> bool:
    return all(len(s) == d.num_replicas for s, d in zip(table.shares, table.problem.demands, strict=True))


def answer_of(table: Table) -> Answer:
    sets = tuple(tuple(share.devices for share in shares) for shares in table.shares)
    offloads = tuple(tuple(share.offload_bytes for share in shares) for shares in table.shares)
    return Answer(sets, SOLVER, None, offloads if any(map(any, offloads)) else ())


def worth_of(table: Table) -> tuple[int, ...]:
    """What was reached of the goals of serving, then of offload, then of staying."""
    problem, worth = table.problem, list[int]()
    for _, level in _levels(problem):
        many = [(problem.weights[i], len(table.shares[i]), len(problem.running[i])) for i in level]
        worth.append(sum(weight * min(placed, ran) for weight, placed, ran in many))
        worth.append(sum(weight * placed for weight, placed, _ in many))
    offloaded = sum(s.offload_bytes * len(s.devices) for shares in table.shares for s in shares)
    return (*worth, -offloaded, sum(_num_staying(table, index) for index in range(len(problem.demands))))


def _num_staying(table: Table, index: int) -> int:
    if not table.problem.running[index]:
        return 0
    runs = zip(table.problem.running[index], table.problem.running_offloads[index], strict=True)
    return (Counter(runs) & Counter((s.devices, s.offload_bytes) for s in table.shares[index])).total()


def _levels(problem: Problem) -> list[tuple[int, list[int]]]:
    """Demand numbers by priority, the highest first."""
    numbers = range(len(problem.demands))
    return [(priority, list(level)) for priority, level in groupby(numbers, lambda i: problem.demands[i].priority)]


def fill(problem: Problem, way: Way, layers: Sequence[Seats], *, may_squeeze: bool) -> Table:
    """One filling. Of each priority first the seats of each layer are kept where they can be, then the rest is placed.

    Only one that may squeeze weights into host memory keeps seats with some of them there.
    """
    table = Table(problem, Pending(problem, layers[0]))
    for _, level in _levels(problem):
        for index in level:
            table.pending.turn_to(index)
        for index, seats in ((index, layer[index]) for layer in layers for index in level):
            _keep(table, index, [seat for seat in seats if may_squeeze or not seat[1]])
        for index in sorted(level, key=lambda index: way.order(problem, index)):
            _Placing(table, index, packs=way.packs, may_squeeze=may_squeeze).run()
    return table


def _keep(table: Table, index: int, seats: Sequence[Seat]) -> None:
    """Those of the seats that are not taken yet."""
    if not seats:
        return
    taken = Counter((share.devices, share.offload_bytes) for share in table.shares[index])
    for devices, offload in (Counter(seats) - taken).elements():
        wanted = len(table.shares[index]) < table.problem.demands[index].num_replicas
        if wanted and table.takes(index, devices, offload):
            table.place(index, devices, offload)


class _Placing:
    """Places what is missing of one demand.

    Sets wait by their scores in a heap, one per device, or per node where a replica takes several. A placed
    replica makes scores of its siblings worse, never better, so a score is only made anew when it comes up.
    """

    def __init__(self, table: Table, index: int, *, packs: bool, may_squeeze: bool) -> None:
        self.table = table
        self.problem = table.problem
        self.index = index
        self.demand = table.problem.demands[index]
        self.need: Load = table.problem.needs[index]
        self.may_squeeze = may_squeeze
        self.siblings: Counter[int] = Counter()
        self.node_siblings: Counter[int] = Counter()
        self.packs = packs
        self.asks_beside = bool(self.demand.cpu_millis or self.demand.host_memory_bytes) or any(table.host)
        self.may_displace = not table.pending.is_empty

    def run(self) -> None:
        missing = self.demand.num_replicas - len(self.table.shares[self.index])
        if missing <= 0:
            return
        for share in self.table.shares[self.index]:
            self._count(share.devices)
        if self.need.peak_bytes <= self.table.most_left():
            missing -= self._place_in_room(missing)
        sets = list(self._all_sets()) if missing and self.may_squeeze else []
        while missing and sets and squeeze_in(self.table, self.index, sets):
            missing -= 1

    def _count(self, devices: DeviceSet) -> None:
        self.siblings.update(devices)
        self.node_siblings[self.problem.node_of[devices[0]]] += 1

    def _place_in_room(self, missing: int) -> int:
        """How many of the missing were placed."""
        placed, heap = 0, self._first_items()
        heapify(heap)
        while heap and placed < missing:
            waiting = heappop(heap)
            group = self._group(waiting[-1])
            now = self._best(group)
            if now is not None and now <= waiting:
                self.table.place(self.index, now[-1])
                self._count(now[-1])
                placed += 1
                now = self._best(group)
            if now is not None:
                heappush(heap, now)
        return placed

    def _group(self, devices: DeviceSet) -> DeviceSet:
        """The devices among which another set is sought once this one is taken."""
        if len(devices) == 1:
            return devices
        return self.problem.allowed[self.index][self.problem.node_of[devices[0]]]

    def _first_items(self) -> list[Item]:
        nodes = self.problem.allowed[self.index]
        if self.demand.tensor_parallel > 1:
            return [best for of_node in nodes if (best := self._best(of_node))]
        fitting = self._fitting([number for of_node in nodes for number in of_node])
        return self._scored(self._with_room_beside(fitting) if self.asks_beside else fitting)

    def _fitting(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Devices with room for a replica, each with the bytes it would leave."""
        rest, start, budgets = self.table.rest, self.table.start, self.problem.budgets
        needed, starting = self.need.rest_bytes, self.need.start_bytes
        return [
            (n, left)
            for n in numbers
            if (left := budgets[n] - rest[n] - needed - (start[n] if start[n] > starting else starting)) >= 0
        ]

    def _with_room_beside(self, fitting: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Without the devices of nodes that lack the cores or the host memory; each node is looked at once."""
        node_of, nodes, takes = self.problem.node_of, self.problem.nodes, dict[int, bool]()
        for number, _ in fitting:
            key = number if nodes[node_of[number]].host_devices else -1 - node_of[number]
            if key not in takes:
                takes[key] = self.table.node_takes(self.index, self.table.singles[number])
        return [(n, left) for n, left in fitting if takes.get(n, takes.get(-1 - node_of[n], False))]

    def _scored(self, fitting: Sequence[tuple[int, int]]) -> list[Item]:
        """The same as `_score` for single devices, in the time that large fleets have."""
        moved = [self.may_displace and self._displaced(self.table.singles[n]) for n, _ in fitting]
        table, node_of, together, apart = self.table, self.problem.node_of, self.siblings, self.node_siblings
        costs, singles, here, sizes = table.costs, table.singles, table.on_device, table.sizes
        both = zip(fitting, moved, strict=True)
        if self.packs:
            return [
                (by, together[n], costs[n], not here[n], apart[node_of[n]], left, singles[n]) for (n, left), by in both
            ]
        return [
            (by, together[n], costs[n], apart[node_of[n]], -left / sizes[n], 0, singles[n]) for (n, left), by in both
        ]

    def _best(self, group: DeviceSet) -> Item | None:
        left_of = dict(self._fitting(group))
        sets = self._sets(tuple(left_of))
        if self.asks_beside:
            sets = (devices for devices in sets if self.table.node_takes(self.index, devices))
        return min((self._score(devices, left_of) for devices in sets), default=None)

    def _all_sets(self) -> Iterator[DeviceSet]:
        for of_node in self.problem.allowed[self.index]:
            yield from self._sets(of_node)

    def _sets(self, numbers: DeviceSet) -> Iterator[DeviceSet]:
        size = self.demand.tensor_parallel
        if comb(len(numbers), size) <= MAX_SETS_PER_NODE:
            yield from combinations(numbers, size)
        else:
            yield from (_grow(self.problem, numbers, seed, size) for seed in numbers)

    def _score(self, devices: DeviceSet, left_of: Mapping[int, int]) -> Item:
        """`left_of` is what a replica would leave on each of the devices."""
        table, apart = self.table, self.node_siblings[self.problem.node_of[devices[0]]]
        together = sum([self.siblings[number] for number in devices]) if self.siblings else 0
        cost, by = table.set_cost(devices), self._displaced(devices)
        if self.packs:
            opened = sum([not table.on_device[number] for number in devices])
            return (by, together, cost, opened, apart, sum([left_of[number] for number in devices]), devices)
        return (by, together, cost, apart, -min([left_of[n] / table.sizes[n] for n in devices]), 0, devices)

    def _displaced(self, devices: DeviceSet) -> int:
        if not self.may_displace:
            return 0
        node = self.problem.node_of[devices[0]]
        on_node = self.asks_beside and self.table.displaces_on_node(self.index, node)
        return sum(self.table.displaces(number, self.need) for number in devices) + on_node


def _grow(problem: Problem, numbers: DeviceSet, seed: int, size: int) -> DeviceSet:
    """The set around `seed` that takes the nearest neighbour at each step."""
    grown: DeviceSet = (seed,)
    while len(grown) < size:
        rest = (number for number in numbers if number not in grown)
        nearest = min(rest, key=lambda number: (set_cost(problem, (*grown, number)), number))
        grown = (*grown, nearest)
    return tuple(sorted(grown))
