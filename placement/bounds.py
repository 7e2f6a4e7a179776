"""What no answer to a large question can beat, goal by goal, given what was reached of the goals before.

How many can be served and how few devices do comes from the relaxed program of `columns.py`; the rest is counting. A
goal for which nothing better is known has the bound that always holds, and then shows a gap: never a guess.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

from placement import goals
from placement.classes import Asked, Classes, classes_of
from placement.columns import Aim, Column, Work, Worth
from placement.feasible import EMPTY
from placement.fill import Fineness
from placement.master import FINE, MAX_ROUNDS, Master
from placement.problem import Answer, DeviceSet, Problem, ailment, loads_of
from placement.score import Reached, levels


class ServingBounds:
    """Bounds of what can be served of each priority, with every device empty and nothing kept in its place.

    A replica over several devices counts as so many pieces that need not be on one node; what may be offloaded costs
    no room. So more is allowed than is possible, and what the program reaches is a bound.
    """

    def __init__(self, problem: Problem, answer: Answer) -> None:
        self._problem = problem
        self._answer = answer
        self._parts = parts_of(problem)
        self._before = list[Reached]()
        self._classes: Classes | None = None

    def next(self, goal: Reached, work: Work) -> int:
        """The bound of the next goal of serving; they are asked for in their order."""
        bound = sum(_weight(self._problem, goal, i) * num_asked(self._problem, goal, i) for i in self._level(goal))
        if goal.value < bound and not work.deadline.is_over:
            bound = max(goal.value, min(bound, self._relaxed(goal, work, at_most=bound)))
        self._before.append(goal)
        return bound

    def _level(self, goal: Reached) -> list[int]:
        demands = self._problem.demands
        return [index for index, demand in enumerate(demands) if demand.priority == goal.priority]

    def _relaxed(self, goal: Reached, work: Work, *, at_most: int) -> int:
        if self._classes is None:
            self._classes = _emptied(self._problem).loose()
        classes, parts = self._classes, self._parts
        held = tuple((worth_of(self._problem, classes, one), one.value * parts) for one in self._before)
        master = Master(classes.kinds, classes.sorts, Aim(worth=worth_of(self._problem, classes, goal), held=held))
        for column in classes.columns_of(self._answer.sets):
            master.add(column)
        state = master.relax(work)
        return at_most if state is None or state.bound is None else state.bound // parts


def parts_of(problem: Problem) -> int:
    """A replica is worth so many parts, which its pieces share evenly."""
    return lcm(*(demand.tensor_parallel for demand in problem.demands))


def worth_of(problem: Problem, classes: Classes, goal: Reached) -> Worth:
    """What a piece of each kind counts towards a goal of serving, in parts."""
    parts, first = parts_of(problem), [members[0] for members in classes.members]
    each = tuple(_weight(problem, goal, i) * parts // problem.demands[i].tensor_parallel for i in first)
    return Worth(each, (0,) * len(each) if _counts_running(goal) else each)


def num_asked(problem: Problem, goal: Reached, index: int) -> int:
    num = problem.demands[index].num_replicas
    return min(num, len(problem.running[index])) if _counts_running(goal) else num


def _counts_running(goal: Reached) -> bool:
    return goal.name == goals.RUNNING.format(goal.priority)


def _weight(problem: Problem, goal: Reached, index: int) -> int:
    if problem.demands[index].priority != goal.priority:
        return 0
    return 1 if goal.name == goals.REPLICAS.format(goal.priority) else problem.weights[index]


def _emptied(problem: Problem) -> Classes:
    """All that is asked for, on empty devices."""
    asks = dict[int, Asked]()
    for index, demand in enumerate(problem.demands):
        size, num = demand.tensor_parallel, demand.num_replicas
        running = min(num, len(problem.running[index]))
        need = problem.needs[index].without(problem.max_offloads[index])
        asks[index] = Asked(need, num * size, num, running * size)
    loads, nowhere = [EMPTY for _ in problem.devices], frozenset[int]()
    return classes_of(problem, asks, loads=loads, opened=nowhere, spared=nowhere)


def most_staying(problem: Problem) -> int:
    both = zip(problem.demands, problem.running, strict=True)
    return sum(min(demand.num_replicas, len(runs)) for demand, runs in both)


def fewest_together(problem: Problem) -> tuple[int, ...]:
    """Per demand: its replicas, all of them served, that must share a device with another of it."""
    budgets_of: dict[tuple[str, ...], list[int]] = {}
    together = list[int]()
    for index, demand in enumerate(problem.demands):
        if demand.device_types not in budgets_of:
            numbers = (number for of_node in problem.allowed[index] for number in of_node)
            budgets_of[demand.device_types] = sorted(problem.budgets[number] for number in numbers)
        budgets = budgets_of[demand.device_types]
        fitting = len(budgets) - bisect_left(budgets, problem.needs[index].peak_bytes - problem.max_offloads[index])
        together.append(max(0, demand.num_replicas * demand.tensor_parallel - fitting))
    return tuple(together)


def fewest_on_one_node(problem: Problem) -> tuple[int, ...]:
    """Per demand: its replicas, all of them served, that must share a node with another of it."""
    rooms_of: dict[tuple[tuple[str, ...], int], list[int]] = {}
    together = list[int]()
    for index, demand in enumerate(problem.demands):
        size = demand.tensor_parallel
        key = demand.device_types, size
        if key not in rooms_of:
            by_room = (
                sorted((problem.budgets[n] for n in of_node), reverse=True) for of_node in problem.allowed[index]
            )
            rooms_of[key] = sorted(rooms[size - 1] for rooms in by_room if len(rooms) >= size)
        rooms = rooms_of[key]
        least = problem.needs[index].peak_bytes - problem.max_offloads[index]
        together.append(max(0, demand.num_replicas - len(rooms) + bisect_left(rooms, least)))
    return tuple(together)


def least_of_served(problem: Problem, answer: Answer, least: Sequence[int]) -> int:
    """The sum over demands when some of a priority are refused: whichever they are, each takes its shares off."""
    together = 0
    for _, level in levels(problem):
        refused = sum(problem.demands[index].num_replicas - len(answer.sets[index]) for index in level)
        shares = refused * max(problem.demands[index].tensor_parallel for index in level)
        if not refused or len({problem.weights[index] for index in level}) == 1:
            together += max(0, sum(least[index] for index in level) - shares)
    return together


def least_by_volume(problem: Problem, answer: Answer) -> int:
    """Devices that must be in use to hold all bytes at rest; 0 where something is refused."""
    both = zip(problem.demands, problem.needs, problem.max_offloads, strict=True)
    volume = sum(d.num_replicas * d.tensor_parallel * (need.rest_bytes - offload) for d, need, offload in both)
    largest = max((problem.budgets[number] for of_node in problem.usable for number in of_node), default=0)
    return -(-volume // largest) if serves_all(problem, answer) and largest > 0 else 0


def least_ailment(problem: Problem, answer: Answer) -> int:
    """What replicas cost when each lies on the soundest devices that it may, as if there were room for all."""
    of_types = dict[tuple[str, ...], int]()
    for index, demand in enumerate(problem.demands):
        if demand.device_types not in of_types:
            numbers = (number for of_node in problem.allowed[index] for number in of_node)
            of_types[demand.device_types] = min((ailment(problem.devices[n]) for n in numbers), default=0)
    each = [of_types[demand.device_types] * demand.tensor_parallel for demand in problem.demands]
    if serves_all(problem, answer):
        return sum(cost * len(sets) for cost, sets in zip(each, answer.sets, strict=True))
    return min(each, default=0) * sum(map(len, answer.sets))


def serves_all(problem: Problem, answer: Answer) -> bool:
    return all(len(sets) == demand.num_replicas for sets, demand in zip(answer.sets, problem.demands, strict=True))


def ailing(problem: Problem) -> frozenset[int]:
    """Devices that ail more than the soundest that takes shares."""
    costs = [ailment(device) for device in problem.devices]
    least = min((costs[number] for of_node in problem.usable for number in of_node), default=0)
    return frozenset(number for number, cost in enumerate(costs) if cost > least)


class Opening(NamedTuple):
    """The question of the fewest devices: what is asked for beside `kept`, on `num_opened` devices in use anyway.

    `least` are in use whatever the patterns: a demand with more replicas than devices is on all of them.
    """

    kept: Sequence[Sequence[DeviceSet]]
    classes: Classes
    held: tuple[tuple[Worth, int], ...]
    num_opened: int
    least: int


def opening(problem: Problem, answer: Answer, reached: Sequence[Reached]) -> Opening:
    """All answers that reach the same up to the devices answer it, and more do."""
    value_of = {goal.name: goal.value for goal in reached}
    all_served = serves_all(problem, answer)
    stays = all_served and value_of[goals.STAYING] == sum(map(len, problem.running))
    kept = problem.running if stays else tuple(() for _ in problem.demands)
    together = fewest_together(problem)
    apart = all_served and value_of[goals.TOGETHER] == sum(together)
    asks = {i: _still_asked(problem, i, kept[i], alone=apart and not least) for i, least in enumerate(together)}
    if all_served:
        asks = {index: ask._replace(num_running=0) for index, ask in asks.items()}
    opened = frozenset(number for sets in kept for devices in sets for number in devices)
    spared = ailing(problem) if value_of[goals.SET_COST] == 0 else frozenset[int]()
    offloads = problem.running_offloads if stays else ()
    loads = loads_of(problem, kept, offloads)
    classes = classes_of(problem, asks, loads=loads, opened=opened, spared=spared - opened).loose()
    if all_served:
        ones = (1,) * len(classes.kinds)
        held: tuple[tuple[Worth, int], ...] = ((Worth(ones, ones), sum(kind.num for kind in classes.kinds)),)
    else:
        serving = [goal for goal in reached if goal.priority is not None]
        held = tuple((worth_of(problem, classes, goal), goal.value * parts_of(problem)) for goal in serving)
    crowds = [
        demand.num_replicas * demand.tensor_parallel - least
        for demand, least in zip(problem.demands, together, strict=True)
        if apart and least
    ]
    return Opening(kept, classes, held, len(opened), max([len(opened), *crowds]))


def _still_asked(problem: Problem, index: int, kept: Sequence[DeviceSet], *, alone: bool) -> Asked:
    demand, size = problem.demands[index], problem.demands[index].tensor_parallel
    num = (demand.num_replicas - len(kept)) * size
    running = max(0, min(demand.num_replicas, len(problem.running[index])) - len(kept)) * size
    barred = frozenset(number for devices in kept for number in devices) if alone else frozenset[int]()
    need = problem.needs[index].without(problem.max_offloads[index])
    return Asked(need, num, 1 if alone else max(1, num), running, barred)


def opening_master(question: Opening, start: Sequence[Column]) -> Master:
    """The program of the fewest devices. `start` are columns that together hold what is held."""
    nothing = (0,) * len(question.classes.kinds)
    aim = Aim(worth=Worth(nothing, nothing), per_device=1, held=question.held)
    master = Master(question.classes.kinds, question.classes.sorts, aim)
    for column in start:
        master.add(column)
    return master


def fewest_devices(
    question: Opening,
    master: Master,
    at_most: int,
    work: Work,
    *,
    fineness: Sequence[Fineness] = FINE,
    max_rounds: int = MAX_ROUNDS,
) -> int:
    """Devices that must be in use; `at_most` are known to do."""
    state = master.relax(work, enough=question.num_opened - at_most, fineness=fineness, max_rounds=max_rounds)
    new = 0 if state is None or state.bound is None else -state.bound
    return min(at_most, max(question.least, question.num_opened + new))
