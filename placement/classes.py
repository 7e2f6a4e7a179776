"""A large question in few words: replicas that are alike as one `Kind`, devices that are alike as one `Sort`.

`Classes` also remembers who they are, so that patterns become device sets again. Where there are too many classes for
a linear program, those of nearly one size are taken together: `loose` at the smallest size and the largest room, so
that what holds of it bounds the question; `tight` at the largest size and the smallest room, so that what fits there
fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from placement.columns import Column, Kind, Sort
from placement.feasible import Load
from placement.problem import DeviceSet, Problem

MAX_KINDS = 400
MAX_SORTS = 40


Label = tuple[int, int, int]
"""Priority, weight and devices per replica."""


class Asked(NamedTuple):
    """What is to be placed of one demand: `num` pieces of `need`, at most `most` on a device, never on `barred`.

    A replica over several devices is as many pieces. `num_running` of the pieces belong to replicas that run.
    """

    need: Load
    num: int
    most: int
    num_running: int = 0
    barred: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """`members[k]` are the demands of `kinds[k]`, `devices[s]` the devices of `sorts[s]`, ascending.

    Kinds with the same `label` count the same, whatever their size.
    """

    kinds: tuple[Kind, ...]
    labels: tuple[Label, ...]
    members: tuple[tuple[int, ...], ...]
    sorts: tuple[Sort, ...]
    devices: tuple[DeviceSet, ...]

    @property
    def is_large(self) -> bool:
        return len(self.kinds) > MAX_KINDS or len(self.sorts) > MAX_SORTS

    def loose(self) -> Classes:
        """Few enough classes, each at its best: all that is possible here is possible there."""
        return self._merged(is_loose=True) if self.is_large else self

    def tight(self) -> Classes:
        """Few enough classes, each at its worst: all that is possible there is possible here."""
        return self._merged(is_loose=False) if self.is_large else self

    def _merged(self, *, is_loose: bool) -> Classes:
        by_size = sorted(
            range(len(self.kinds)), key=lambda k: (self.labels[k], self.kinds[k].rest_bytes, self.kinds[k].start_bytes)
        )
        kinds = list(_runs(by_size, lambda k: self.labels[k], MAX_KINDS))
        by_room = sorted(range(len(self.sorts)), key=lambda s: (self.sorts[s].is_open, self.sorts[s].room))
        sorts = list(_runs(by_room, lambda s: self.sorts[s].is_open, MAX_SORTS))
        merged_of = {kind: merged for merged, of_merged in enumerate(kinds) for kind in of_merged}
        return Classes(
            kinds=tuple(_merged_kind([self.kinds[k] for k in run], is_loose) for run in kinds),
            labels=tuple(self.labels[run[0]] for run in kinds),
            members=tuple(tuple(index for k in run for index in self.members[k]) for run in kinds),
            sorts=tuple(_merged_sort([self.sorts[s] for s in run], kinds, merged_of, is_loose) for run in sorts),
            devices=tuple(tuple(sorted(number for s in run for number in self.devices[s])) for run in sorts),
        )

    def columns_of(self, sets: Sequence[Sequence[DeviceSet]]) -> list[Column]:
        """What each device holds of the kinds when replicas lie on `sets`, as columns."""
        kind_of = {index: kind for kind, members in enumerate(self.members) for index in members}
        held: dict[int, dict[int, int]] = {}
        for index, of_demand in enumerate(sets):
            for number in (number for devices in of_demand for number in devices if index in kind_of):
                here = held.setdefault(number, {})
                here[kind_of[index]] = here.get(kind_of[index], 0) + 1
        columns = dict[Column, None]()
        for sort, devices in enumerate(self.devices):
            for number in devices:
                if number in held:
                    columns[Column(sort, tuple(sorted(held[number].items())))] = None
        return list(columns)


def classes_of(
    problem: Problem,
    asked: Mapping[int, Asked],
    *,
    loads: Sequence[Load],
    opened: frozenset[int],
    spared: frozenset[int],
) -> Classes:
    """`loads` lie on the devices already, `opened` are in use, `spared` take nothing."""
    kinds, labels, members = _kinds(problem, asked)
    takers = _takers(problem, members, asked)
    like: dict[Sort, list[int]] = {}
    for number in (number for of_node in problem.usable for number in of_node):
        takes = takers[number]
        if number not in spared and takes:
            room, start = problem.budgets[number] - loads[number].rest_bytes, loads[number].start_bytes
            sort = Sort(room=room, start=start, num=0, takes=takes, is_open=number in opened)
            like.setdefault(sort, []).append(number)
    return Classes(
        kinds=kinds,
        labels=labels,
        members=members,
        sorts=tuple(
            Sort(room=sort.room, start=sort.start, num=len(numbers), takes=sort.takes, is_open=sort.is_open)
            for sort, numbers in like.items()
        ),
        devices=tuple(map(tuple, like.values())),
    )


def _merged_kind(kinds: Sequence[Kind], is_loose: bool) -> Kind:
    pick = min if is_loose else max
    return Kind(
        rest_bytes=pick(kind.rest_bytes for kind in kinds),
        start_bytes=pick(kind.start_bytes for kind in kinds),
        num=sum(kind.num for kind in kinds),
        most=sum(kind.most for kind in kinds),
        num_running=sum(kind.num_running for kind in kinds),
    )


def _merged_sort(
    sorts: Sequence[Sort], kinds: Sequence[Sequence[int]], merged_of: Mapping[int, int], is_loose: bool
) -> Sort:
    taken = frozenset[int].union if is_loose else frozenset[int].intersection
    takes = taken(*(sort.takes for sort in sorts))
    merged = {merged_of[kind] for kind in takes}
    if not is_loose:
        merged = {number for number in merged if takes.issuperset(kinds[number])}
    return Sort(
        room=(max if is_loose else min)(sort.room for sort in sorts),
        start=(min if is_loose else max)(sort.start for sort in sorts),
        num=sum(sort.num for sort in sorts),
        takes=frozenset(merged),
        is_open=sorts[0].is_open,
    )


def _runs(ordered: Sequence[int], label: Callable[[int], object], at_most: int) -> Iterator[Sequence[int]]:
    """Neighbours with one label in runs of about equal length, not many more than `at_most` in all."""
    length = -(-len(ordered) // at_most)
    for _, of_label in groupby(ordered, key=label):
        members = list(of_label)
        for first in range(0, len(members), length):
            yield members[first : first + length]


def _kinds(
    problem: Problem, asked: Mapping[int, Asked]
) -> tuple[tuple[Kind, ...], tuple[Label, ...], tuple[tuple[int, ...], ...]]:
    """Demands are alike when the same is asked of both and both count the same; what is barred somewhere is alone."""
    like: dict[tuple[object, ...], list[int]] = {}
    labels = list[Label]()
    for index, ask in asked.items():
        if ask.num > 0:
            demand = problem.demands[index]
            label = (demand.priority, problem.weights[index], demand.tensor_parallel)
            beside = (demand.device_types, demand.cpu_millis, demand.host_memory_bytes)
            alone = index if ask.barred else -1
            like.setdefault((ask._replace(barred=frozenset()), label, *beside, alone), []).append(index)
    for members in like.values():
        demand = problem.demands[members[0]]
        labels.append((demand.priority, problem.weights[members[0]], demand.tensor_parallel))
    kinds = [
        Kind(
            rest_bytes=ask.need.rest_bytes,
            start_bytes=ask.need.start_bytes,
            num=ask.num * len(members),
            most=ask.most * len(members),
            num_running=ask.num_running * len(members),
        )
        for members in like.values()
        for ask in (asked[members[0]],)
    ]
    return tuple(kinds), tuple(labels), tuple(map(tuple, like.values()))


def _takers(
    problem: Problem, members: Sequence[Sequence[int]], asked: Mapping[int, Asked]
) -> dict[int, frozenset[int]]:
    """The kinds that every device may take, worked out once for all devices of one type."""
    of_types: dict[tuple[str, ...], list[int]] = {}
    barred: dict[int, set[int]] = {}
    for kind, (first, *_) in enumerate(members):
        of_types.setdefault(problem.demands[first].device_types, []).append(kind)
        for number in asked[first].barred:
            barred.setdefault(number, set()).add(kind)
    types_of: dict[int, tuple[tuple[str, ...], ...]] = {n: () for of_node in problem.usable for n in of_node}
    for types, kinds in of_types.items():
        for number in (number for of_node in problem.allowed[members[kinds[0]][0]] for number in of_node):
            types_of[number] += (types,)
    known = {every: frozenset(kind for types in every for kind in of_types[types]) for every in set(types_of.values())}
    return {number: known[every].difference(barred.get(number, ())) for number, every in types_of.items()}
