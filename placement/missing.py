"""Demands with replicas missing from an answer: what refusal and advice both look at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from placement.demand import Demand
from placement.feasible import Load, fits, host_bytes_of, room_bytes, slots
from placement.problem import Answer, DeviceSet, NodeUse, Problem, may_offload, uses_of

NOBODY: frozenset[int] = frozenset()


class MissingBook:
    """One answer looked at for all that it refuses: summed up once, asked once per refused demand.

    `loads` are those of the answer by device number, `rests` and `starts` the two halves of them, `shares` the shares
    that make them up by demand number, `left` the cores and the host memory nobody takes, by node number.
    """

    def __init__(self, problem: Problem, answer: Answer, loads: Sequence[Load]) -> None:
        self.problem = problem
        self.answer = answer
        self.loads = loads
        self.rests = [load.rest_bytes for load in loads]
        self.starts = [load.start_bytes for load in loads]
        self.shares: list[list[tuple[int, Load]]] = [[] for _ in problem.devices]
        for index, sets in enumerate(answer.sets):
            for devices, offload in zip(sets, answer.offloads_of(index), strict=True):
                for number in devices:
                    self.shares[number].append((index, problem.needs[index].without(offload)))
        self.uses = uses_of(problem, answer.sets, answer.offloads)
        self.has_host_devices = any(node.host_devices for node in problem.nodes)
        self._unload_order = self._sorted_placed()
        self._of_types: dict[tuple[str, ...], _OfTypes] = {}
        self.left = [self.left_without(node, NOBODY) for node in range(len(problem.nodes))]

    def refused(self) -> list[Missing]:
        both = zip(self.problem.demands, self.answer.sets, strict=True)
        return [Missing(self, index) for index, (demand, sets) in enumerate(both) if len(sets) < demand.num_replicas]

    def _sorted_placed(self) -> list[int]:
        demands, needs, sets = self.problem.demands, self.problem.needs, self.answer.sets
        placed = (index for index, of_demand in enumerate(sets) if of_demand)
        freed = {index: needs[index].rest_bytes * sum(map(len, sets[index])) for index in placed}
        return sorted(freed, key=lambda index: (demands[index].priority, freed[index], demands[index].model))

    def left_without(self, node: int, group: Collection[int]) -> NodeUse:
        """Cores and host memory of the node that nobody takes once the demands of `group` are gone."""
        problem, budget, use = self.problem, self.problem.nodes[node], self.uses[node]
        cpu, host = budget.cpu_millis - use.cpu_millis, budget.memory_bytes - use.host_bytes
        for index in group:
            demand = problem.demands[index]
            both = zip(self.answer.sets[index], self.answer.offloads_of(index), strict=True)
            here = [offload for devices, offload in both if problem.node_of[devices[0]] == node]
            cpu += demand.cpu_millis * len(here)
            host += sum(host_bytes_of(demand, offload) for offload in here)
        return NodeUse(cpu, host - sum(self.load_without(n, group).peak_bytes for n in budget.host_devices))

    def of_types(self, index: int) -> _OfTypes:
        """What is the same for all demands of the same device types."""
        types = self.problem.demands[index].device_types
        if types not in self._of_types:
            self._of_types[types] = _OfTypes(self, index)
        return self._of_types[types]

    def unload_order(self, at_most: int) -> list[int]:
        """Demands with replicas placed, the least important and then the smallest first."""
        return self._unload_order[:at_most]

    def load_without(self, number: int, group: Collection[int]) -> Load:
        if not group:
            return self.loads[number]
        kept = [load for index, load in self.shares[number] if index not in group]
        if len(kept) == len(self.shares[number]):
            return self.loads[number]
        return Load(sum([load.rest_bytes for load in kept]), max([load.start_bytes for load in kept], default=0))


class _OfTypes:
    """Devices of some types, looked at once for all demands that name these types.

    `nodes` have them in whatever state, `usable` are those that take shares; `limits` are the usable ones' limits in
    ascending order and `most_room` what the emptiest of them has beside the rest of its load: a larger peak fits on
    none. `num_cordoned` and `num_unhealthy` count those that take none.
    """

    def __init__(self, book: MissingBook, index: int) -> None:
        problem = book.problem
        by_node: dict[int, list[int]] = {}
        for number in problem.of_type[index]:
            by_node.setdefault(problem.node_of[number], []).append(number)
        self.nodes = list(by_node.items())
        self.usable = [number for of_node in problem.allowed[index] for number in of_node]
        self.limits = sorted(problem.limits[number] for number in self.usable)
        self.most_room = max((problem.budgets[n] - book.rests[n] for n in self.usable), default=0)
        away = frozenset(problem.of_type[index]).difference(self.usable)
        self.num_cordoned = sum(problem.devices[number].cordoned for number in away)
        self.num_unhealthy = len(away) - self.num_cordoned
        self._starts = book.starts
        self._by_left = sorted((book.rests[n] - problem.budgets[n], n) for n in self.usable)

    def best(self, start_bytes: int) -> tuple[int, int]:
        """Most room for a replica that needs so much more to start, and the first device that has it."""
        best: tuple[int, int] | None = None
        for taken, number in self._by_left:
            if best is not None and taken > best[0]:
                break
            here = taken + max(0, self._starts[number] - start_bytes), number
            best = here if best is None else min(best, here)
        assert best is not None, "asked of no device"
        return -best[0], best[1]


@dataclass(frozen=True, slots=True)
class Missing:
    """`book.problem.demands[index]` has fewer replicas in the answer than it asks for."""

    book: MissingBook
    index: int

    @property
    def problem(self) -> Problem:
        return self.book.problem

    @property
    def demand(self) -> Demand:
        return self.problem.demands[self.index]

    @property
    def need(self) -> Load:
        return self.problem.needs[self.index]

    @property
    def num_placed(self) -> int:
        return len(self.book.answer.sets[self.index])

    @property
    def allowed(self) -> tuple[DeviceSet, ...]:
        return self.problem.allowed[self.index]

    def fits_on(self, number: int) -> bool:
        return fits(self.problem.budgets[number], self.book.loads[number], self.need)

    def room_on(self, number: int) -> int:
        """The largest peak that would still fit on the device, for a replica that starts like this one."""
        return room_bytes(self.problem.budgets[number], self.book.loads[number], self.need)

    @property
    def most_now(self) -> int:
        return self.problem.max_offloads[self.index]

    def most_offload(self, node: int) -> int:
        return self.most_now if may_offload(self.problem, self.index, node) else 0

    def host_needed(self, number: int, offload_bytes: int = 0) -> int:
        """Host memory a replica on this device would take; all of it where the device is the host's memory."""
        beside = host_bytes_of(self.demand, offload_bytes)
        if number not in self.problem.nodes[self.problem.node_of[number]].host_devices:
            return beside
        start = max(0, self.need.start_bytes - self.book.starts[number])
        return beside + self.need.rest_bytes + start

    def beside(self, number: int) -> tuple[bool, bool]:
        """Whether the device's node has the cores, and the host memory, with nothing offloaded."""
        left = self.book.left[self.problem.node_of[number]]
        return self.demand.cpu_millis <= left.cpu_millis, self.host_needed(number) <= left.host_bytes

    def takes(self, numbers: Sequence[int], group: Collection[int] = NOBODY) -> bool:
        """Whether a replica fits on some of these devices of one node once the demands of `group` are gone."""
        fitting = [
            number
            for number in numbers
            if fits(self.problem.budgets[number], self.book.load_without(number, group), self.need)
        ]
        if len(fitting) < self.demand.tensor_parallel:
            return False
        left = self.book.left_without(self.problem.node_of[numbers[0]], group)
        cheapest = min(self.host_needed(number) for number in fitting)
        return self.demand.cpu_millis <= left.cpu_millis and cheapest <= left.host_bytes

    def best(self) -> tuple[int, int] | None:
        """Room and number of the device to name: of those that do not fit if there are any, the one with the most.

        None when no device is usable. `room` is what `room_on` says.
        """
        of_types, peak, starting = self.book.of_types(self.index), self.need.peak_bytes, self.need.start_bytes
        if not of_types.usable:
            return None
        if peak > of_types.most_room:
            return of_types.best(starting)
        budgets, rests, starts = self.problem.budgets, self.book.rests, self.book.starts
        rooms = [(budgets[n] - rests[n] - max(0, starts[n] - starting), -n) for n in of_types.usable]
        room, number = max([pair for pair in rooms if pair[0] < peak], default=max(rooms))
        return room, -number

    def short_bytes(self) -> int | None:
        """Least bytes by which a peak must shrink to fit somewhere as things are; None where no shrinking helps."""
        size = self.demand.tensor_parallel
        nodes = (of_node for of_node in self.allowed if len(of_node) >= size and all(self.beside(of_node[0])))
        rooms = [sorted(map(self.room_on, of_node), reverse=True)[size - 1] for of_node in nodes]
        return self.need.peak_bytes - max(rooms) if rooms else None

    def could_run_more(self) -> bool:
        """Whether more replicas than are placed could run of this demand alone on the whole fleet, every device
        healthy, uncordoned and free of holdings, every node free of what others use."""
        found = 0
        for node, numbers in self.book.of_types(self.index).nodes:
            found += self._num_ideal(node, numbers)
            if found > self.num_placed:
                return True
        return False

    def _num_ideal(self, node: int, numbers: Sequence[int]) -> int:
        """Replicas alone on one node at its best; with offload an upper bound, so that nothing is called hopeless
        that is not."""
        budget, demand, asked = self.problem.nodes[node], self.demand, self.demand.num_replicas
        most, limits = self.most_offload(node), self.problem.limits
        beside = Load(self.need.rest_bytes + demand.host_memory_bytes, self.need.start_bytes)
        need = beside if budget.host_devices else self.need.without(most)
        groups = self._num_groups([slots(limits[number], need, at_most=asked) for number in numbers])
        if demand.cpu_millis:
            groups = min(groups, budget.all_cpu_millis // demand.cpu_millis)
        least_offload = max(0, self.need.peak_bytes - max(limits[number] for number in numbers))
        host = host_bytes_of(demand, least_offload)
        return min(groups, budget.all_memory_bytes // host) if host and not budget.host_devices else groups

    def _num_groups(self, places: Sequence[int]) -> int:
        """Most replicas on different devices each, when device i can be in `places[i]` of them."""
        size = self.demand.tensor_parallel
        if size == 1:
            return min(sum(places), self.demand.num_replicas)
        possible = range(self.demand.num_replicas, 0, -1)
        return next((n for n in possible if sum(min(place, n) for place in places) >= n * size), 0)
