"""Why there is no room: facts first, then the one sentence made from them.

Facts say what the plan looks like with everything else placed: causes counted per device, and the usable
device with the most room for this replica. *Blocked* means a later plan may hold it; *infeasible* means that these
devices cannot, empty and healthy as they could be.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from placement.advice import advise
from placement.feasible import is_usable
from placement.missing import Missing
from placement.plan import Cause, Refusal, RefusalKind
from placement.units import percent, told_apart

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


@dataclass(frozen=True, slots=True)
class _Best:
    device: str
    room_bytes: int


def refuse(missing: Missing) -> Refusal:
    """The refusal of the replicas that are missing."""
    is_blocked = missing.num_that_could_run() > missing.num_placed
    kind = RefusalKind.BLOCKED if is_blocked else RefusalKind.INFEASIBLE
    causes, best, advice = _count_causes(missing), _best(missing), advise(missing, kind)
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
    counts = Counter(_cause(missing, number) for number in range(len(missing.problem.devices)))
    return tuple((cause, counts[cause]) for cause in Cause if counts[cause])


def _cause(missing: Missing, number: int) -> Cause:
    device = missing.problem.devices[number]
    if device.cordoned:
        return Cause.CORDONED
    if not is_usable(device):
        return Cause.UNHEALTHY
    if missing.limit_of(number) < missing.need.peak_bytes:
        return Cause.TOO_SMALL
    neighbours = next(usable for usable in missing.problem.usable if number in usable)
    return Cause.TOO_FEW_DEVICES if len(neighbours) < missing.demand.tensor_parallel else Cause.NO_ROOM


def _best(missing: Missing) -> _Best | None:
    """The device to name: of those that do not fit if there are any, the one with the most room."""
    usable = [number for numbers in missing.problem.usable for number in numbers]
    if not usable:
        return None
    candidates = [number for number in usable if not missing.fits_on(number)] or usable
    number = max(candidates, key=lambda number: (missing.room_on(number), -number))
    return _Best(missing.problem.devices[number].id, max(0, missing.room_on(number)))


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
    if demand.num_replicas == 1:
        return f"No room for '{demand.model}': it needs {needed} on {where}"
    num_missing = demand.num_replicas - missing.num_placed
    whom = f"{num_missing} of {demand.num_replicas} replicas of '{demand.model}'"
    return f"No room for {whom}: each needs {needed} on {where}"
