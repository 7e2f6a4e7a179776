"""Why there is no room: facts first, then the one sentence made from them.

Facts say what the plan looks like with everything else placed: causes counted per device, and the usable
device with the most room for this replica. *Blocked* means a later plan may hold it; *infeasible* means that these
devices cannot, empty and healthy as they could be.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from placement.advice import advise, last_resort
from placement.deadline import NO_DEADLINE, Deadline
from placement.missing import Missing, MissingBook
from placement.plan import Cause, Refusal, RefusalKind
from placement.problem import DeviceSet
from placement.units import gib, percent, told_apart

Causes = tuple[tuple[Cause, int], ...]

CAUSE_WORDS = {
    Cause.TOO_SMALL: "too small",
    Cause.NO_ROOM: "without room",
    Cause.UNHEALTHY: "unhealthy",
    Cause.CORDONED: "cordoned",
    Cause.TOO_FEW_DEVICES: "on nodes with too few usable devices",
    Cause.WRONG_TYPE: "of another type",
    Cause.NO_CPU: "on nodes without the cores",
    Cause.NO_HOST_MEMORY: "on nodes without the host memory",
}


MAX_ADVISED = 100
"""Refused models that get advice tried out for them; those after them, in order of priority, get the last resort. So do
all after the deadline.
"""


@dataclass(frozen=True, slots=True)
class _Best:
    device: str
    room_bytes: int


def refuse_all(book: MissingBook, deadline: Deadline = NO_DEADLINE) -> Iterator[Refusal]:
    """One refusal per demand with replicas missing, from the highest priority to the lowest."""
    for position, missing in enumerate(book.refused()):
        yield _refuse(missing, may_try=position < MAX_ADVISED and not deadline.is_over)


def _refuse(missing: Missing, *, may_try: bool) -> Refusal:
    kind = RefusalKind.BLOCKED if missing.could_run_more() else RefusalKind.INFEASIBLE
    causes, best = _count_causes(missing), _best(missing)
    advice = advise(missing, kind) if may_try else last_resort(missing)
    return Refusal(
        model=missing.demand.model,
        num_replicas=missing.demand.num_replicas - missing.num_placed,
        kind=kind,
        causes=causes,
        needed_bytes=missing.need.peak_bytes,
        best_device=best.device if best else None,
        best_room_bytes=best.room_bytes if best else 0,
        advice=advice,
        message=f"{_sentence(missing, causes, best)} {advice}".rstrip(),
    )


def _count_causes(missing: Missing) -> Causes:
    problem, of_types, counts = missing.problem, missing.book.of_types(missing.index), Counter[Cause]()
    counts[Cause.WRONG_TYPE] = len(problem.devices) - len(problem.of_type[missing.index])
    counts[Cause.CORDONED], counts[Cause.UNHEALTHY] = of_types.num_cordoned, of_types.num_unhealthy
    least = missing.need.peak_bytes - missing.most_now
    is_plain = missing.demand.tensor_parallel == 1 and not (missing.most_now and missing.book.has_host_devices)
    if is_plain and least > of_types.most_room:
        counts[Cause.TOO_SMALL] = bisect_left(of_types.limits, least)
        counts[Cause.NO_ROOM] = len(of_types.limits) - counts[Cause.TOO_SMALL]
    else:
        for node, numbers in enumerate(missing.allowed):
            _count_node(missing, node, numbers, counts)
    return tuple((cause, counts[cause]) for cause in Cause if counts[cause])


def _count_node(missing: Missing, node: int, numbers: DeviceSet, counts: Counter[Cause]) -> None:
    """Causes of the usable devices of one node."""
    problem, rests, starts = missing.problem, missing.book.rests, missing.book.starts
    least = missing.need.without(missing.most_offload(node))
    peak, rest, start = least.peak_bytes, least.rest_bytes, least.start_bytes
    too_few = len(numbers) < missing.demand.tensor_parallel
    for number in numbers:
        if problem.limits[number] < peak:
            counts[Cause.TOO_SMALL] += 1
        elif too_few:
            counts[Cause.TOO_FEW_DEVICES] += 1
        elif rests[number] + rest + max(starts[number], start) > problem.budgets[number]:
            counts[Cause.NO_ROOM] += 1
        else:
            counts[_cause_beside(missing, number)] += 1


def _cause_beside(missing: Missing, number: int) -> Cause:
    """Why a device with room takes no replica: its node, or too few of its neighbours have room too."""
    left = missing.book.left[missing.problem.node_of[number]]
    if missing.demand.cpu_millis > left.cpu_millis:
        return Cause.NO_CPU
    offload = max(0, missing.need.peak_bytes - missing.room_on(number))
    return Cause.NO_ROOM if missing.host_needed(number, offload) <= left.host_bytes else Cause.NO_HOST_MEMORY


def _best(missing: Missing) -> _Best | None:
    best = missing.best()
    return _Best(missing.problem.devices[best[1]].id, max(0, best[0])) if best else None


def _sentence(missing: Missing, causes: Causes, best: _Best | None) -> str:
    devices, headroom = missing.problem.devices, percent(missing.problem.policy.headroom)
    needed, room = told_apart(missing.need.peak_bytes, best.room_bytes if best else 0)
    start = _start(missing, needed)
    counted = ", ".join(f"{count} {CAUSE_WORDS[cause]}" for cause, count in causes)
    if not devices:
        return f"{start}; the fleet has no device."
    if best is None:
        return f"{start}; of {len(devices)} devices none takes shares ({counted})."
    others = "" if [cause for cause, _ in causes] == [Cause.NO_ROOM] else f" ({counted})"
    return f"{start}; the best of {len(devices)}, '{best.device}', has {room} above its {headroom} headroom{others}."


def _start(missing: Missing, needed: str) -> str:
    demand = missing.demand
    where = "one device" if demand.tensor_parallel == 1 else f"each of {demand.tensor_parallel} devices of one node"
    needs = f"{needed} on {where}{_beside_words(missing)}"
    if demand.num_replicas == 1:
        return f"No room for '{demand.model}': it needs {needs}"
    num_missing = demand.num_replicas - missing.num_placed
    whom = f"{num_missing} of {demand.num_replicas} replicas of '{demand.model}'"
    return f"No room for {whom}: each needs {needs}"


def _beside_words(missing: Missing) -> str:
    """What else a replica asks for: device types, cores, host memory."""
    demand = missing.demand
    types = f" of type {' or '.join(demand.device_types)}" if demand.device_types else ""
    beside = [f"{demand.cpu_millis / 1000:g} cores"] if demand.cpu_millis else []
    beside += [f"{gib(demand.host_memory_bytes)} of host memory"] if demand.host_memory_bytes else []
    return f"{types} and {' and '.join(beside)} beside it" if beside else types
