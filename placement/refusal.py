"""Why there is no room: facts first, then the one sentence made from them.

Facts say what the plan looks like with everything else placed: causes counted per device, and the usable
device with the most room for this replica. *Blocked* means a later plan may hold it; *infeasible* means that these
devices cannot, empty and healthy as they could be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from placement.advice import Levers, advise
from placement.demand import Demand
from placement.feasible import Load, fits, is_usable, limit_bytes, load_of, room_bytes, slots
from placement.plan import Cause, Placement, Refusal, RefusalKind
from placement.problem import DeviceSet, Problem
from placement.units import percent, told_apart

CAUSE_WORDS = {
    Cause.TOO_SMALL: "too small",
    Cause.NO_ROOM: "without room",
    Cause.UNHEALTHY: "unhealthy",
    Cause.CORDONED: "cordoned",
    Cause.TOO_FEW_DEVICES: "on nodes with too few usable devices",
}


@dataclass(frozen=True, slots=True)
class _Best:
    device: str
    room_bytes: int


def refuse(problem: Problem, demand: Demand, *, num_placed: int, placements: Sequence[Placement]) -> Refusal:
    """The refusal of the replicas of `demand` that are missing from `placements`."""
    loads = [load_of(p.estimate for p in placements if device.id in p.devices) for device in problem.devices]
    num_replicas = demand.num_replicas - num_placed
    kind = RefusalKind.BLOCKED if num_that_could_run(problem, demand) > num_placed else RefusalKind.INFEASIBLE
    causes = _count_causes(problem, demand, loads)
    best = _best(problem, demand, loads)
    levers = Levers(demand=demand, kind=kind, short_bytes=_short_bytes(problem, demand, loads))
    advice = advise(problem, levers, loads, placements)
    return Refusal(
        model=demand.model,
        num_replicas=num_replicas,
        kind=kind,
        causes=causes,
        needed_bytes=demand.estimate.peak_bytes,
        best_device=best.device if best else None,
        best_room_bytes=best.room_bytes if best else 0,
        advice=advice,
        message=_sentence(problem, demand, num_replicas, causes, best) + (f" {advice}" if advice else ""),
    )


def num_that_could_run(problem: Problem, demand: Demand) -> int:
    """Replicas of this demand alone on the whole fleet, every device healthy, uncordoned and free of holdings."""
    total = 0
    for node in sorted({device.node for device in problem.devices}):
        limits = [limit_bytes(d.total_bytes, problem.policy.headroom) for d in problem.devices if d.node == node]
        places = [slots(limit, demand.estimate, at_most=demand.num_replicas) for limit in limits]
        total += _num_groups(places, demand.tensor_parallel, at_most=demand.num_replicas)
    return total


def _num_groups(places: Sequence[int], size: int, *, at_most: int) -> int:
    """Most groups of `size` different devices when device i can be in `places[i]` groups."""
    possible = (n for n in range(at_most, 0, -1) if sum(min(place, n) for place in places) >= n * size)
    return next(possible, 0)


def _count_causes(problem: Problem, demand: Demand, loads: Sequence[Load]) -> tuple[tuple[Cause, int], ...]:
    counts = Counter(_cause(problem, demand, loads, number) for number in range(len(problem.devices)))
    return tuple((cause, counts[cause]) for cause in Cause if counts[cause])


def _cause(problem: Problem, demand: Demand, loads: Sequence[Load], number: int) -> Cause:
    device = problem.devices[number]
    if device.cordoned:
        return Cause.CORDONED
    if not is_usable(device):
        return Cause.UNHEALTHY
    if limit_bytes(device.total_bytes, problem.policy.headroom) < demand.estimate.peak_bytes:
        return Cause.TOO_SMALL
    if len(_neighbours(problem, number)) < demand.tensor_parallel:
        return Cause.TOO_FEW_DEVICES
    return Cause.NO_ROOM


def _neighbours(problem: Problem, number: int) -> DeviceSet:
    """Usable devices of the same node, this one included."""
    return next((usable for usable in problem.usable if number in usable), ())


def _best(problem: Problem, demand: Demand, loads: Sequence[Load]) -> _Best | None:
    """The device to name: of those that do not fit if there are any, the one with the most room."""
    usable = [number for numbers in problem.usable for number in numbers]
    full = [n for n in usable if not fits(problem.budgets[n], loads[n], demand.estimate)]
    if not usable:
        return None
    rooms = {n: room_bytes(problem.budgets[n], loads[n], demand.estimate) for n in full or usable}
    number = max(rooms, key=lambda n: (rooms[n], -n))
    return _Best(problem.devices[number].id, max(0, rooms[number]))


def _short_bytes(problem: Problem, demand: Demand, loads: Sequence[Load]) -> int | None:
    """Least bytes by which one peak must shrink to fit somewhere as things are; None where no shrinking helps."""
    size = demand.tensor_parallel
    nodes = [
        sorted((room_bytes(problem.budgets[n], loads[n], demand.estimate) for n in usable), reverse=True)
        for usable in problem.usable
    ]
    rooms = [node[size - 1] for node in nodes if len(node) >= size]
    return demand.estimate.peak_bytes - max(rooms) if rooms else None


def _sentence(
    problem: Problem, demand: Demand, num_replicas: int, causes: tuple[tuple[Cause, int], ...], best: _Best | None
) -> str:
    whom, each = f"'{demand.model}'", "it needs"
    if demand.num_replicas > 1:
        whom, each = f"{num_replicas} of {demand.num_replicas} replicas of '{demand.model}'", "each needs"
    where = "one device" if demand.tensor_parallel == 1 else f"each of {demand.tensor_parallel} devices of one node"
    needed, room = told_apart(demand.estimate.peak_bytes, best.room_bytes if best else 0)
    start = f"No room for {whom}: {each} {needed} on {where}"
    counted = ", ".join(f"{count} {CAUSE_WORDS[cause]}" for cause, count in causes)
    if not problem.devices:
        return f"{start}; the fleet has no device."
    if best is None:
        return f"{start}; of {len(problem.devices)} devices none takes shares ({counted})."
    others = "" if [cause for cause, _ in causes] == [Cause.NO_ROOM] else f" ({counted})"
    return (
        f"{start}; the best of {len(problem.devices)}, '{best.device}', "
        f"has {room} above its {percent(problem.policy.headroom)} headroom{others}."
    )
