"""Large questions: what lies between the heuristic and the exact model.

Starts from the heuristic's answer, works out what cannot be beaten, and looks for better answers by patterns: how many
devices hold which replicas. An answer replaces another only when it is better in the first goal they differ in, so
nothing is traded. Limited by counted work, not by time: the same question has the same answer on any day.

Treated by patterns are replicas on one device with nothing offloaded. All others, replicas that stay where they run and
replicas on ailing devices keep the place the heuristic gave them, and patterns are laid around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import floor

from placement import goals
from placement.bounds import (
    ServingBounds,
    ailing,
    fewest_devices,
    fewest_on_one_node,
    fewest_together,
    least_ailment,
    least_by_volume,
    least_of_served,
    most_staying,
    opening,
    opening_master,
    serves_all,
)
from placement.classes import Asked, Classes, classes_of
from placement.columns import Aim, Work, Worth
from placement.deadline import NO_DEADLINE, Deadline
from placement.dive import Dive
from placement.evenness_bound import least_unevenness
from placement.goals import gap_of
from placement.levelling import levelled
from placement.master import CLOSE, COARSE, FINE, Master
from placement.plan import GoalReached
from placement.policy import Goal
from placement.problem import Answer, DeviceSet, Problem, loads_of
from placement.rebuild import Seat, Seats, rebuild
from placement.refill import refill
from placement.score import is_better, levels, reached
from placement.shift import shifted

WORK_PER_S = 1_300_000
"""Work in a second of `Policy.time_limit_s`; see `Work`."""
WORK_PER_DEMAND = 30
"""What it costs to look at every demand a few times, and at its replicas."""
WORK_TO_BEGIN = 120
"""By demand: the heuristic's filling, the question itself and the words of a refusal."""
MAX_DIVES = 400
PENALTY = 20
"""Devices that one replica left out may cost where sizes are rounded, so that not all may fit."""
LEVEL_RATIO = 8
MAX_RATIO = 10**4


Bounds = dict[str, int]


def tightened(problem: Problem, answer: Answer, deadline: Deadline = NO_DEADLINE) -> Answer:
    """The answer with better bounds where the relaxed program knows them: for what another search left unproven."""
    work = Work(int(problem.policy.time_limit_s * WORK_PER_S), deadline=deadline)
    if work.is_done or not answer.gap:
        return answer
    serving, done = ServingBounds(problem, answer), list[GoalReached]()
    known = {goal.name: goal for goal in reached(problem, answer) if goal.priority is not None}
    for goal in answer.goals:
        bound = min(goal.bound, serving.next(known[goal.name], work)) if goal.name in known else goal.bound
        if goal.name == goals.UNEVENNESS and goal.value > bound:
            bound = min(goal.value, max(bound, least_unevenness(problem, answer)))
        done.append(replace(goal, bound=bound))
    return replace(answer, goals=tuple(done), gap=gap_of(done))


def solve_large(problem: Problem, start: Answer, deadline: Deadline = NO_DEADLINE) -> Answer:
    """The best answer found, with the goals it reached, their bounds and the gap."""
    work = Work(int(problem.policy.time_limit_s * WORK_PER_S), deadline=deadline)
    work.spend(WORK_TO_BEGIN * len(problem.demands))
    if any(problem.running):
        start = _better(problem, shifted(problem, start), start)
    answer, bounds = _serve_more(problem, start, work)
    if problem.policy.goal is Goal.PACK and work.deadline.is_over:
        bounds[goals.DEVICES] = least_by_volume(problem, answer)
    elif problem.policy.goal is Goal.PACK:
        answer, bounds[goals.DEVICES] = Packing(problem, answer).run(work)
        filled = answer if serves_all(problem, answer) else refill(problem, answer)
        if filled.sets != answer.sets:
            answer, bounds = filled, _bounds(problem, filled, work)
            bounds[goals.DEVICES] = Packing(problem, filled).bound(work)
    elif any(goal.value != bounds[goal.name] for goal in reached(problem, answer)):
        answer = _better(problem, levelled(problem, answer, work), answer)
    done = tuple(
        GoalReached(name=goal.name, value=goal.value, bound=bounds[goal.name]) for goal in reached(problem, answer)
    )
    return replace(answer, gap=gap_of(done), goals=done)


def _better(problem: Problem, one: Answer, other: Answer) -> Answer:
    return one if is_better(reached(problem, one), reached(problem, other)) else other


def _serve_more(problem: Problem, answer: Answer, work: Work) -> tuple[Answer, Bounds]:
    """The answer that serves most of a few searches, and the bounds of all goals but the devices in use."""
    bounds = _bounds(problem, answer, work)
    for keeps_running, may_crowd in ((True, False), (True, True), (False, True)):
        serving = (goal for goal in reached(problem, answer) if goal.priority is not None)
        if work.is_done or all(goal.value == bounds[goal.name] for goal in serving):
            break
        if keeps_running or any(problem.running):
            better = _more_served(problem, answer, work, keeps_running=keeps_running, may_crowd=may_crowd)
            if better is not None:
                answer, bounds = better, _bounds(problem, better, work)
    return answer, bounds


def _bounds(problem: Problem, answer: Answer, work: Work) -> Bounds:
    """All but that of the devices in use."""
    serving, bounds = ServingBounds(problem, answer), Bounds()
    for goal in reached(problem, answer):
        if goal.priority is not None:
            bounds[goal.name] = serving.next(goal, work)
        elif goal.name == goals.STAYING:
            bounds[goal.name] = most_staying(problem)
        else:
            bounds[goal.name] = _least(problem, answer, goal.name)
    return bounds


def _least(problem: Problem, answer: Answer, name: str) -> int:
    """Of a goal of which less is better, whichever are served of as many; 0 where nothing is known."""
    match name:
        case goals.TOGETHER:
            return least_of_served(problem, answer, fewest_together(problem))
        case goals.SAME_NODE:
            return least_of_served(problem, answer, fewest_on_one_node(problem))
        case goals.SET_COST:
            return least_ailment(problem, answer)
        case goals.UNEVENNESS:
            return least_unevenness(problem, answer)
        case _:
            return 0


def _more_served(
    problem: Problem, answer: Answer, work: Work, *, keeps_running: bool, may_crowd: bool
) -> Answer | None:
    around = _around(problem, answer, keeps_running=keeps_running, may_crowd=may_crowd, asks_all=True)
    ratios, ratio = dict[int, int](), 1
    for priority, _ in reversed(levels(problem)):
        ratios[priority] = ratio
        ratio = min(MAX_RATIO, ratio * LEVEL_RATIO)
    classes = around.classes.tight()
    each = tuple(ratios[priority] * weight for priority, weight, _ in classes.labels)
    master = Master(classes.kinds, classes.sorts, Aim(worth=Worth(each, each)))
    counts = [len(sets) - len(stays) for sets, stays in zip(answer.sets, around.stays, strict=True)]
    known = sum(
        counts[index] * worth for members, worth in zip(classes.members, each, strict=True) for index in members
    )
    best = None
    for better in _dives(problem, around, master, known, work):
        filled = refill(problem, better)
        if is_better(reached(problem, filled), reached(problem, best or answer)):
            best = filled
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    """What stays in its place, and the question of where to put `asked[i]` replicas of demand i beside it."""

    stays: Seats
    asked: tuple[int, ...]
    classes: Classes


def _around(
    problem: Problem, answer: Answer, *, keeps_running: bool = True, may_crowd: bool = False, asks_all: bool = False
) -> _Around:
    """`may_crowd`: replicas of a demand may share a device. `asks_all`: also for what was refused."""
    together = fewest_together(problem)
    spared, stays, asks = ailing(problem), list[tuple[tuple[DeviceSet, int], ...]](), dict[int, Asked]()
    for index, demand in enumerate(problem.demands):
        seats = list(zip(answer.sets[index], answer.offloads_of(index), strict=True))
        num = demand.num_replicas if asks_all else len(seats)
        if demand.tensor_parallel > 1 or not (may_crowd or together[index] == 0):
            num, staying = len(seats), seats
        else:
            runs = Counter[Seat]()
            if keeps_running:
                runs.update(zip(problem.running[index], problem.running_offloads[index], strict=True))
            staying = list(_staying(seats, runs, spared))
        stays.append(tuple(staying))
        barred = frozenset(number for devices, _ in staying for number in devices)
        free = num - len(staying)
        asks[index] = Asked(
            problem.needs[index], free, free if may_crowd else 1, barred=frozenset() if may_crowd else barred
        )
    sets = tuple(tuple(devices for devices, _ in seats) for seats in stays)
    opened = frozenset(number for of_demand in sets for devices in of_demand for number in devices)
    loads = loads_of(problem, sets, tuple(tuple(offload for _, offload in seats) for seats in stays))
    classes = classes_of(problem, asks, loads=loads, opened=opened, spared=spared)
    return _Around(stays=tuple(stays), asked=tuple(ask.num for ask in asks.values()), classes=classes)


def _staying(seats: Sequence[Seat], runs: Counter[Seat], spared: frozenset[int]) -> Iterator[Seat]:
    for devices, offload in seats:
        if offload or runs[devices, offload] > 0 or not spared.isdisjoint(devices):
            runs[devices, offload] -= 1
            yield devices, offload


def _dives(
    problem: Problem, around: _Around, master: Master, known: int, work: Work, *, is_hasty: bool = True
) -> Iterator[Answer]:
    """Answers of dives, each worth more to the program than the one before."""
    fineness = COARSE if is_hasty else CLOSE
    classes = around.classes.tight()
    root = master.relax(work, enough=known, fineness=fineness, is_hasty=is_hasty)
    for number in range(MAX_DIVES):
        if work.is_done or root is None or root.value + 1e-6 < known + 1:
            return
        target = floor(root.value + 1e-6)
        dive = Dive(master=master, seed=problem.policy.seed, number=number, fineness=fineness, is_hasty=is_hasty)
        decided = dive.run(work, above=known, target=target)
        if decided is not None:
            known = master.worth_of(decided)
            work.spend(WORK_PER_DEMAND * len(problem.demands))
            yield rebuild(problem, around.stays, classes, decided, around.asked)


class Packing:
    """Fewer devices in use, with everything served that is."""

    def __init__(self, problem: Problem, answer: Answer) -> None:
        self.problem, self.answer = problem, answer
        self.score = reached(problem, answer)
        self.question = opening(problem, answer, self.score)
        self.around = _around(problem, answer)

    def run(self, work: Work) -> tuple[Answer, int]:
        """The answer, and the fewest devices that could do."""
        bounding = self._bounding()
        fewest = fewest_devices(self.question, bounding, self.num_devices, work, fineness=FINE[1:2], max_rounds=1)
        same = self.question.classes == self.around.classes and serves_all(self.problem, self.answer)
        master = bounding if same else self._master()
        self._fewer(master, fewest, work.part(3, of=5), is_hasty=True)
        if self.num_devices > fewest:
            fewest = max(fewest, fewest_devices(self.question, bounding, self.num_devices, work.part(1, of=2)))
        self._fewer(master, fewest, work, is_hasty=False)
        return self.answer, min(fewest, self.num_devices)

    def bound(self, work: Work) -> int:
        """The fewest devices that could do."""
        return fewest_devices(self.question, self._bounding(), self.num_devices, work.part(1, of=2))

    @property
    def num_devices(self) -> int:
        return self.score[-1].value

    def _bounding(self) -> Master:
        columns = self.question.classes.columns_of(_without(self.answer, self.question.kept))
        return opening_master(self.question, columns)

    def _fewer(self, master: Master, fewest: int, work: Work, *, is_hasty: bool) -> None:
        """Better answers, until one is known to be the best or the work is spent."""
        opened = len({number for seats in self.around.stays for devices, _ in seats for number in devices})
        served = 0 if master.aim.held else PENALTY * sum(self.around.asked)
        if self.num_devices <= fewest or not any(self.around.asked):
            return
        known = served + opened - self.num_devices
        for better in _dives(self.problem, self.around, master, known, work, is_hasty=is_hasty):
            score = reached(self.problem, better)
            if is_better(score, self.score):
                self.answer, self.score = better, score
                if self.num_devices <= fewest:
                    break

    def _master(self) -> Master:
        """Where sizes are rounded not all may fit, so leaving something out is dear instead of forbidden."""
        classes = self.around.classes.tight()
        num = len(classes.kinds)
        nothing, one, each = (0,) * num, (1,) * num, (PENALTY,) * num
        if classes is not self.around.classes:
            return Master(classes.kinds, classes.sorts, Aim(worth=Worth(each, each), per_device=1))
        held = ((Worth(one, one), sum(self.around.asked)),)
        master = Master(classes.kinds, classes.sorts, Aim(worth=Worth(nothing, nothing), per_device=1, held=held))
        stays = tuple(tuple(devices for devices, _ in seats) for seats in self.around.stays)
        for column in classes.columns_of(_without(self.answer, stays)):
            master.add(column)
        return master


def _without(answer: Answer, sets: Sequence[Sequence[DeviceSet]]) -> list[list[DeviceSet]]:
    """The device sets of the answer that are not among these, each as often as it is there."""
    return [
        list((Counter(of_answer) - Counter(of_others)).elements()) if of_others else list(of_answer)
        for of_answer, of_others in zip(answer.sets, sets, strict=True)
    ]
