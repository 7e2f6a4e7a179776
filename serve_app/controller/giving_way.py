"""Which running jobs give way to models of higher priority. Pure; the solver itself says whether it is enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from placement.plan import Plan, Refusal, RefusalKind
from serve_app.controller.room import refused, who_goes

_MOST_PLANS: Final = 64
"""Plans asked for one model. With more jobs than that lets compare, none that goes could stay, but fewer might do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """`name` is the holder of its bytes in an inventory, `held_s` for how long it has had them."""

    name: str
    priority: int
    held_s: float


PlanWithout = Callable[[frozenset[str]], Plan]
"""The plan when these jobs do not run."""
PlanWithoutBoth = Callable[[frozenset[str], frozenset[str]], Plan]
"""The plan when these models, and these jobs, do not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """`asleep` are idle models that go to sleep; `giving_way` has the model that each job gives way to."""

    asleep: frozenset[str] = frozenset()
    giving_way: Mapping[str, str] = field(default_factory=dict)


def may_give_way(job: RunningJob, *, priority: int, min_hold_s: float) -> bool:
    """Never to an equal priority, never before it had its minimum time."""
    return job.priority < priority and job.held_s >= min_hold_s


def room_for(
    plan_without: PlanWithoutBoth,
    *,
    needed: Collection[str],
    idle: Sequence[str],
    priorities: Mapping[str, int],
    jobs: Iterable[RunningJob],
    min_hold_s: float,
) -> Room:
    """Idle models sleep for those that are `needed`; where that is not enough, jobs give way to any model.

    More idle models sleep beside jobs that give way only where one without the other is not enough.
    """
    highest = max(priorities.values(), default=0)
    may = [job for job in jobs if may_give_way(job, priority=highest, min_hold_s=min_hold_s)]
    asleep = who_goes(lambda models: plan_without(models, frozenset()), needed=needed, candidates=idle)
    if not may:
        return Room(asleep=asleep)

    def giving_way(models: frozenset[str]) -> Mapping[str, str]:
        return who_gives_way(
            lambda gone: plan_without(models, gone), priorities=priorities, jobs=may, min_hold_s=min_hold_s
        )

    def are_served(room: Room) -> bool:
        return not refused(plan_without(room.asleep, frozenset(room.giving_way))) & set(needed)

    room = Room(asleep=asleep, giving_way=giving_way(asleep))
    if not idle or asleep or are_served(room):
        return room
    gone = frozenset(giving_way(frozenset(idle) - frozenset(needed)))
    asleep = who_goes(lambda models: plan_without(models, gone), needed=needed, candidates=idle)
    both = Room(asleep=asleep, giving_way=giving_way(asleep))  # with fewer asleep, some of them would go for nothing
    return both if asleep and are_served(both) else room


def who_gives_way(
    plan_without: PlanWithout, *, priorities: Mapping[str, int], jobs: Iterable[RunningJob], min_hold_s: float
) -> Mapping[str, str]:
    """The jobs that go back to their queue, each with the model it gives way to.

    For each model that is refused, the highest priority first: the fewest jobs below it that get it as many replicas
    as all of them would, and take nobody else's place. Among as few, those of lowest priority, then the youngest.
    """
    gone: dict[str, str] = {}
    for model in _claimants(plan_without(frozenset()), priorities):
        may = [
            job
            for job in jobs
            if job.name not in gone and may_give_way(job, priority=priorities[model], min_hold_s=min_hold_s)
        ]
        gone |= dict.fromkeys(_victims(plan_without, model, may, already=frozenset(gone)), model)
    return gone


def waits_for_jobs(
    refusals: Iterable[Refusal], *, priorities: Mapping[str, int], jobs: Iterable[RunningJob], min_hold_s: float
) -> frozenset[str]:
    """The jobs that may give way to a model that waits for room; whether that is enough is not known."""
    waiting = [priorities[one.model] for one in refusals if one.kind is RefusalKind.BLOCKED and one.model in priorities]
    return frozenset(
        job.name for job in jobs if waiting and may_give_way(job, priority=max(waiting), min_hold_s=min_hold_s)
    )


def _claimants(plan: Plan, priorities: Mapping[str, int]) -> list[str]:
    waiting = [one.model for one in plan.refusals if one.kind is RefusalKind.BLOCKED]
    return sorted(waiting, key=lambda model: (-priorities[model], model))


def _victims(
    plan_without: PlanWithout, model: str, jobs: Sequence[RunningJob], *, already: frozenset[str]
) -> frozenset[str]:
    before = _num_missing(plan_without(already))
    if not jobs or not before[model]:
        return frozenset()
    aim = _num_missing(plan_without(already | _names(jobs)))[model]

    def are_enough(some: Sequence[RunningJob]) -> bool:
        missing = _num_missing(plan_without(already | _names(some)))
        return missing[model] <= aim and missing <= before

    if aim >= before[model] or not are_enough(jobs):
        return frozenset()
    return _names(_fewest(are_enough, jobs))


def _fewest(are_enough: Callable[[Sequence[RunningJob]], bool], jobs: Sequence[RunningJob]) -> Sequence[RunningJob]:
    """The cheapest of the smallest sets that are enough; all together are known to be."""
    left = _MOST_PLANS
    for count in range(1, len(jobs)):
        left -= math.comb(len(jobs), count)
        if left < 0:
            return _pruned(are_enough, jobs)
        cheapest_first = sorted(combinations(jobs, count), key=_cost)
        found = next((some for some in cheapest_first if are_enough(some)), None)
        if found is not None:
            return found
    return jobs


def _pruned(are_enough: Callable[[Sequence[RunningJob]], bool], jobs: Sequence[RunningJob]) -> Sequence[RunningJob]:
    """All of them less those that may stay, the dearest first."""
    chosen = sorted(jobs, key=lambda job: _cost([job]), reverse=True)
    for job in tuple(chosen):
        fewer = [other for other in chosen if other is not job]
        if fewer and are_enough(fewer):
            chosen = fewer
    return chosen


def _cost(jobs: Sequence[RunningJob]) -> tuple[list[int], float, list[str]]:
    priorities = sorted((job.priority for job in jobs), reverse=True)
    return priorities, sum(job.held_s for job in jobs), sorted(_names(jobs))


def _names(jobs: Iterable[RunningJob]) -> frozenset[str]:
    return frozenset(job.name for job in jobs)


def _num_missing(plan: Plan) -> Counter[str]:
    """Replicas that were refused, by model."""
    missing = Counter[str]()
    for refusal in plan.refusals:
        missing[refusal.model] += refusal.num_replicas
    return missing
