"""What an answer reached of the goals, one after another: the figures two answers of a large question are held by.

In the order and with the names of `goals.py`, down to what the policy wants: the devices in use to pack, unevenness to
spread. What comes after is not looked at here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from placement import goals
from placement.evenness import unevenness
from placement.policy import Goal
from placement.problem import Answer, DeviceSet, Problem, set_cost


class Reached(NamedTuple):
    """`priority` is None where the goal is none of serving."""

    name: str
    value: int
    is_more_better: bool
    priority: int | None = None


def reached(problem: Problem, answer: Answer) -> tuple[Reached, ...]:
    later = [
        Reached(goals.STAYING, num_staying(problem, answer), True),
        Reached(goals.TOGETHER, _num_together(answer.sets), False),
        Reached(goals.SET_COST, sum(set_cost(problem, s) for sets in answer.sets for s in sets), False),
    ]
    if problem.policy.goal is Goal.PACK:
        used = {number for sets in answer.sets for devices in sets for number in devices}
        later.append(Reached(goals.DEVICES, len(used), False))
    else:
        nodes = [[(problem.node_of[devices[0]],) for devices in sets] for sets in answer.sets]
        later.append(Reached(goals.SAME_NODE, _num_together(nodes), False))
        later.append(Reached(goals.UNEVENNESS, unevenness(problem, answer), False))
    return (*_served(problem, answer), *_offloaded(problem, answer), *later)


def is_better(one: tuple[Reached, ...], other: tuple[Reached, ...]) -> bool:
    """Whether `one` is better in the first goal they differ in."""
    for mine, theirs in zip(one, other, strict=True):
        if mine.value != theirs.value:
            return (mine.value > theirs.value) is mine.is_more_better
    return False


def levels(problem: Problem) -> list[tuple[int, tuple[int, ...]]]:
    """Demand numbers by priority, the highest first."""
    numbers = range(len(problem.demands))
    return [(priority, tuple(level)) for priority, level in groupby(numbers, lambda i: problem.demands[i].priority)]


def num_staying(problem: Problem, answer: Answer) -> int:
    """Replicas on the devices they run on, with as much offloaded."""
    staying = 0
    for index, sets in enumerate(answer.sets):
        if not problem.running[index]:
            continue
        runs = Counter(zip(problem.running[index], problem.running_offloads[index], strict=True))
        staying += (runs & Counter(zip(sets, answer.offloads_of(index), strict=True))).total()
    return staying


def _served(problem: Problem, answer: Answer) -> list[Reached]:
    served = list[Reached]()
    for priority, level in levels(problem):
        counts = [(problem.weights[i], len(answer.sets[i]), len(problem.running[i])) for i in level]
        if any(ran for _, _, ran in counts):
            value = sum(weight * min(placed, ran) for weight, placed, ran in counts)
            served.append(Reached(goals.RUNNING.format(priority), value, True, priority))
        value = sum(weight * placed for weight, placed, _ in counts)
        served.append(Reached(goals.SERVED.format(priority), value, True, priority))
        if len({weight for weight, _, _ in counts}) > 1:
            value = sum(placed for _, placed, _ in counts)
            served.append(Reached(goals.REPLICAS.format(priority), value, True, priority))
    return served


def _offloaded(problem: Problem, answer: Answer) -> Iterator[Reached]:
    for priority, level in levels(problem):
        if any(problem.max_offloads[i] for i in level):
            value = sum(o * problem.demands[i].tensor_parallel for i in level for o in answer.offloads_of(i))
            yield Reached(goals.OFFLOADED.format(priority), value, False)


def _num_together(places: Sequence[Sequence[DeviceSet]]) -> int:
    """Replicas beyond the first of their demand in a place, over all places."""
    together = 0
    for of_demand in places:
        if len(of_demand) > 1:
            here = Counter(number for place in of_demand for number in place)
            together += sum(count - 1 for count in here.values())
    return together
