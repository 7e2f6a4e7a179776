"""The question as a CP-SAT model: variables, rules, and the goals over them in their order (`goals.py` says which).

Replicas of one model are alike, so they are counted per device set; what they offload is summed there. Everything is
linear: evenness is the sum of squared fill, the square drawn by its tangents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log

from ortools.sat.python import cp_model

from placement import goals
from placement.policy import Goal
from placement.problem import Answer, DeviceSet, Problem, may_offload, set_cost

FULL = 1000
"""A full device, in the thousandths that evenness is measured in."""
TANGENT_STEP = 50
MAX_ORDER_WEIGHT = 10**9


@dataclass(frozen=True, slots=True)
class Stage:
    """One goal. `bound` is a value that cannot be beaten; reaching it needs no proof by search."""

    name: str
    expression: cp_model.LinearExpr
    maximize: bool
    bound: int


@dataclass(frozen=True, slots=True)
class Option:
    """A device set for replicas of one demand: how many lie there, and the bytes they offload together per device.

    `stays` counts those that run there already, by the bytes each offloads; `free` is what the others offload.
    None where nothing can be offloaded.
    """

    devices: DeviceSet
    node: int
    count: cp_model.IntVar
    stays: dict[int, cp_model.IntVar]
    free: cp_model.IntVar | None

    @property
    def offloaded(self) -> cp_model.LinearExpr:
        kept = [stays * offload for offload, stays in self.stays.items() if offload]
        return total(kept if self.free is None else [*kept, self.free])


class ExactModel:
    """All variables and rules, and the stages over them; a search only adds what it has reached."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.cp = cp_model.CpModel()
        self.options = [self._options(index) for index in range(len(problem.demands))]
        for demand, options in zip(problem.demands, self.options, strict=True):
            self.cp.add(total([option.count for option in options]) <= demand.num_replicas)
        self.on_device = [self._on_device(options) for options in self.options]
        self.used = [self._used(index) for index in range(len(problem.demands))]
        self.peaks = [self._peak(number) for number in range(len(problem.devices))]
        self.opened = [self._opened(number) for number in range(len(problem.devices))]
        for node in range(len(problem.nodes)):
            self._hold_node(node)
        self.stages = list(self._stages())

    def hint(self, answer: Answer) -> None:
        """The answer as the place to start from."""
        for index, options in enumerate(self.options):
            placed = Counter(zip(answer.sets[index], answer.offloads_of(index), strict=True))
            for option in options:
                here = {offload: many for (devices, offload), many in placed.items() if devices == option.devices}
                self.cp.add_hint(option.count, sum(here.values()))
                left = sum(offload * many for offload, many in here.items())
                for offload, stays in option.stays.items():
                    num_staying = min(here.get(offload, 0), self._num_runs(index, option.devices, offload))
                    self.cp.add_hint(stays, num_staying)
                    left -= offload * num_staying
                if option.free is not None:
                    self.cp.add_hint(option.free, left)

    def decisions(self) -> list[int]:
        """Numbers of the variables that say where replicas lie; all others only measure that."""
        options = [option for options in self.options for option in options]
        variables = [option.count for option in options] + [
            option.free for option in options if option.free is not None
        ]
        return [v.index for v in (*variables, *(stays for option in options for stays in option.stays.values()))]

    def _num_runs(self, index: int, devices: DeviceSet, offload: int) -> int:
        runs = zip(self.problem.running[index], self.problem.running_offloads[index], strict=True)
        return sum(run == (devices, offload) for run in runs)

    def _options(self, index: int) -> list[Option]:
        """Every set of devices of one node that could hold a replica if nothing else were there."""
        problem, found = self.problem, list[Option]()
        size = problem.demands[index].tensor_parallel
        for node, allowed in enumerate(problem.allowed[index]):
            most = problem.max_offloads[index] if may_offload(problem, index, node) else 0
            least = problem.needs[index].peak_bytes - most
            fitting = [number for number in allowed if least <= problem.budgets[number]]
            found += [self._option(index, node, devices, most) for devices in combinations(fitting, size)]
        return found

    def _option(self, index: int, node: int, devices: DeviceSet, most: int) -> Option:
        many = self.problem.demands[index].num_replicas
        count, stays = self.cp.new_int_var(0, many, ""), dict[int, cp_model.IntVar]()
        runs = zip(self.problem.running[index], self.problem.running_offloads[index], strict=True)
        for offload, here in sorted(Counter(offload for run, offload in runs if run == devices).items()):
            stays[offload] = self.cp.new_int_var(0, here, "")
        others = count - total(list(stays.values()))
        self.cp.add(others >= 0)
        free = self.cp.new_int_var(0, most * many, "") if most else None
        if free is not None:
            self.cp.add(free <= most * others)
        return Option(devices, node, count, stays, free)

    def _on_device(self, options: Sequence[Option]) -> dict[int, list[Option]]:
        """Options of one demand per device number."""
        here: dict[int, list[Option]] = {}
        for option in options:
            for number in option.devices:
                here.setdefault(number, []).append(option)
        return here

    def _used(self, index: int) -> dict[int, cp_model.IntVar]:
        used = {}
        for number, options in self.on_device[index].items():
            used[number] = self.cp.new_bool_var("")
            replicas = total([option.count for option in options])
            self.cp.add(replicas <= self.problem.demands[index].num_replicas * used[number])
            self.cp.add(replicas >= used[number])
        return used

    def _peak(self, number: int) -> cp_model.LinearExpr | None:
        """Bytes on the device at the largest start, bounded by its budget."""
        here = [index for index, on_device in enumerate(self.on_device) if number in on_device]
        if not here:
            return None
        budget = max(0, self.problem.budgets[number])
        starts = {index: self.problem.needs[index].start_bytes for index in here}
        start = self.cp.new_int_var(0, min(budget, max(starts.values())), "")
        self.cp.add_max_equality(start, [self.used[index][number] * starts[index] for index in here])
        rests = list[cp_model.LinearExprT]([start])
        for index in here:
            for option in self.on_device[index][number]:
                rests += [option.count * self.problem.needs[index].rest_bytes, -1 * option.offloaded]
        peak = total(rests)
        self.cp.add(peak <= self.problem.budgets[number])
        return peak

    def _opened(self, number: int) -> cp_model.IntVar | None:
        users = [used[number] for used in self.used if number in used]
        if not users:
            return None
        opened = self.cp.new_bool_var("")
        self.cp.add_max_equality(opened, users)
        return opened

    def _hold_node(self, node: int) -> None:
        """Cores and host memory; where a device is the host's memory, what lies there counts too."""
        budget, cpu, host = self.problem.nodes[node], list[cp_model.LinearExprT](), list[cp_model.LinearExprT]()
        for demand, options in zip(self.problem.demands, self.options, strict=True):
            for option in (option for option in options if option.node == node):
                cpu += [option.count * demand.cpu_millis] if demand.cpu_millis else []
                host += [option.count * demand.host_memory_bytes] if demand.host_memory_bytes else []
                offloads = option.free is not None or any(option.stays)
                host += [option.offloaded * demand.tensor_parallel] if offloads else []
        if cpu:
            self.cp.add(total(cpu) <= budget.cpu_millis)
        if host:
            peaks = [peak for number in budget.host_devices if (peak := self.peaks[number]) is not None]
            self.cp.add(total([*host, *peaks]) <= budget.memory_bytes)

    def _stages(self) -> Iterator[Stage]:
        priorities = sorted({demand.priority for demand in self.problem.demands}, reverse=True)
        for priority in priorities:
            yield from self._served(priority)
        for priority in priorities:
            yield from self._offloaded(priority)
        yield self._staying()
        yield self._together(goals.TOGETHER, lambda option: option.devices)
        yield self._set_costs()
        packs = self.problem.policy.goal is Goal.PACK
        if packs:
            opened = [opened for opened in self.opened if opened is not None]
            yield Stage(goals.DEVICES, total(opened), maximize=False, bound=0)
        yield self._together(goals.SAME_NODE, lambda option: (option.node,))
        yield from (self._stranded(), self._unevenness()) if packs else (self._unevenness(), self._stranded())
        yield self._order()

    def _level(self, priority: int) -> list[int]:
        return [i for i, demand in enumerate(self.problem.demands) if demand.priority == priority and self.options[i]]

    def _served(self, priority: int) -> Iterator[Stage]:
        """What runs is served before anything new of its priority is; then the most is."""
        problem, level = self.problem, self._level(priority)
        placed = {index: total([option.count for option in self.options[index]]) for index in level}
        asked = {index: problem.demands[index].num_replicas for index in level}
        weights = {index: problem.weights[index] for index in level}
        running, most = list[cp_model.LinearExprT](), 0
        for index in (index for index in level if problem.running[index]):
            ran = min(asked[index], len(problem.running[index]))
            served = self.cp.new_int_var(0, ran, "")
            self.cp.add(served <= placed[index])
            running.append(served * weights[index])
            most += ran * weights[index]
        if running:
            yield Stage(goals.RUNNING.format(priority), total(running), maximize=True, bound=most)
        weighted = total([placed[index] * weights[index] for index in level])
        most = sum(asked[index] * weights[index] for index in level)
        yield Stage(goals.SERVED.format(priority), weighted, maximize=True, bound=most)
        if len(set(weights.values())) > 1:
            replicas = total(list(placed.values()))
            yield Stage(goals.REPLICAS.format(priority), replicas, maximize=True, bound=sum(asked.values()))

    def _offloaded(self, priority: int) -> Iterator[Stage]:
        level = [index for index in self._level(priority) if self.problem.max_offloads[index]]
        terms = [
            option.offloaded * self.problem.demands[index].tensor_parallel
            for index in level
            for option in self.options[index]
        ]
        if terms:
            yield Stage(goals.OFFLOADED.format(priority), total(terms), maximize=False, bound=0)

    def _staying(self) -> Stage:
        stays = [stays for options in self.options for option in options for stays in option.stays.values()]
        both = zip(self.problem.demands, self.problem.running, strict=True)
        most = sum(min(demand.num_replicas, len(runs)) for demand, runs in both)
        return Stage(goals.STAYING, total(stays), maximize=True, bound=most)

    def _together(self, name: str, places_of: Callable[[Option], tuple[int, ...]]) -> Stage:
        """Replicas beyond the first of their model in a place."""
        extra = list[cp_model.LinearExprT]()
        for demand, options in zip(self.problem.demands, self.options, strict=True):
            here: dict[int, list[cp_model.LinearExprT]] = {}
            for option in options if demand.num_replicas > 1 else ():
                for place in places_of(option):
                    here.setdefault(place, []).append(option.count)
            for counts in here.values():
                extra.append(self.cp.new_int_var(0, demand.num_replicas, ""))
                self.cp.add(extra[-1] >= total(counts) - 1)
        return Stage(name, total(extra), maximize=False, bound=0)

    def _set_costs(self) -> Stage:
        options = (option for options in self.options for option in options)
        terms = [option.count * set_cost(self.problem, option.devices) for option in options]
        return Stage(goals.SET_COST, total(terms), maximize=False, bound=0)

    def _stranded(self) -> Stage:
        """Free room of devices in use that is smaller than the smallest demanded peak."""
        smallest = min((need.peak_bytes for need in self.problem.needs), default=0)
        costs = list[cp_model.LinearExprT]()
        for budget, peak, opened in zip(self.problem.budgets, self.peaks, self.opened, strict=True):
            if peak is None or opened is None:
                continue
            takes_more, cost = self.cp.new_bool_var(""), self.cp.new_int_var(0, max(0, smallest - 1), "")
            self.cp.add(budget - peak >= smallest).only_enforce_if(takes_more)
            self.cp.add(cost >= budget - peak).only_enforce_if(opened, ~takes_more)
            costs.append(cost)
        return Stage(goals.STRANDED, total(costs), maximize=False, bound=0)

    def _unevenness(self) -> Stage:
        """Sum over the devices of the squared fill at the peak."""
        costs = list[cp_model.LinearExprT]()
        for device, peak in zip(self.problem.devices, self.peaks, strict=True):
            if peak is None:
                continue
            fill, cost = self.cp.new_int_var(0, FULL, ""), self.cp.new_int_var(0, FULL * FULL, "")
            self.cp.add(fill * device.total_bytes >= FULL * peak)
            for at in range(0, FULL + 1, TANGENT_STEP):
                self.cp.add(cost >= 2 * at * fill - at * at)
            costs.append(cost)
        return Stage(goals.UNEVENNESS, total(costs), maximize=False, bound=0)

    def _order(self) -> Stage:
        """Lower device numbers for larger replicas, in earnest for the first few demands and roughly for the rest."""
        needs, demands = self.problem.needs, self.problem.demands
        sizes = [need.peak_bytes * demand.tensor_parallel for need, demand in zip(needs, demands, strict=True)]
        ranked = sorted(range(len(sizes)), key=lambda index: -sizes[index])
        base = max(2, len(self.problem.devices))
        most = min(int(log(MAX_ORDER_WEIGHT, base)), len(ranked) - 1)
        terms = [
            option.count * sum(option.devices) * base ** max(0, most - rank)
            for rank, index in enumerate(ranked)
            for option in self.options[index]
        ]
        return Stage(goals.ORDER, total(terms), maximize=False, bound=0)


def total(terms: Sequence[cp_model.LinearExprT]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.sum([*terms, cp_model.LinearExpr.constant(0)])
