"""From device sets to a plan people can read: names, reasons, strategy, refusals.

Replicas that stay keep their names; all others take the lowest free ordinals of their model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

from placement.deadline import NO_DEADLINE, Deadline
from placement.demand import Demand, Estimate, PartName
from placement.feasible import Load
from placement.inventory import Inventory
from placement.missing import MissingBook
from placement.plan import Placement, Plan, Refusal, Strategy
from placement.problem import RISK_THAT_COUNTS, Answer, DeviceSet, Problem, loads_of, places_of
from placement.refusal import refuse_all
from placement.units import gib

BUS_BYTES_PER_S = 25 * 10**9
"""What a device reads from host memory: about four fifths of the 31.5 GB/s that PCIe 4.0 x16 has by its specification
(16 GT/s, 16 lanes, 128b/130b), the rest goes to the protocol. Not measured here; PCIe 5.0 has twice, 3.0 half of it.
"""

Seat = tuple[DeviceSet, int]
"""Where one replica lies, and what it offloads per device."""


def assemble(
    problem: Problem,
    answer: Answer,
    inventory: Inventory,
    running: Sequence[Placement],
    deadline: Deadline = NO_DEADLINE,
) -> Plan:
    """The plan in words. After the deadline nothing more is tried out for those refused."""
    loads = loads_of(problem, answer.sets, answer.offloads)
    placements = tuple(_placements(problem, answer, running, loads))
    refusals = tuple(refuse_all(MissingBook(problem, answer, loads), deadline))
    return Plan(
        inventory_version=inventory.version,
        headroom=problem.policy.headroom,
        strategy=strategy_of(placements, refusals),
        placements=placements,
        refusals=refusals,
        solver=answer.solver,
        gap=answer.gap,
        goals=answer.goals,
    )


def strategy_of(placements: Sequence[Placement], refusals: Sequence[Refusal]) -> Strategy:
    """The name of what was done: refusals say most, then weights in host memory, then replicas over several devices,
    then how many devices."""
    if refusals:
        return Strategy.REDUCED
    if any(placement.offload_bytes for placement in placements):
        return Strategy.OFFLOAD
    if any(len(placement.devices) > 1 for placement in placements):
        return Strategy.TENSOR_PARALLEL
    devices = {device for placement in placements for device in placement.devices}
    return Strategy.MULTI_DEVICE if len(devices) > 1 else Strategy.SINGLE_DEVICE


def offloaded(estimate: Estimate, offload_bytes: int) -> Estimate:
    """The estimate with so many bytes taken off its weights, from the first part on."""
    parts, left = list(estimate.parts), offload_bytes
    for position, part in enumerate(parts):
        if part.name is PartName.WEIGHTS and left:
            taken = min(left, part.num_bytes)
            parts[position], left = replace(part, num_bytes=part.num_bytes - taken), left - taken
    return Estimate(parts=tuple(parts)) if offload_bytes else estimate


def _placements(
    problem: Problem, answer: Answer, running: Sequence[Placement], loads: Sequence[Load]
) -> Iterator[Placement]:
    before_of = places_of(running)
    for index, demand in enumerate(problem.demands):
        before = before_of.get(demand.model, [])
        seats = list(zip(answer.sets[index], answer.offloads_of(index), strict=True))
        kept, new = _match(problem, before, seats)
        named = {replica: (seat, "stays where it runs") for replica, seat in kept.items()}
        gone = {placement.replica: placement for placement in before if placement.replica not in kept}
        for seat, name in zip(new, _free_names(demand.model, taken=kept), strict=False):
            named[name] = (seat, _reason(problem, loads, seat, gone.get(name)))
        for replica in sorted(named, key=lambda name: (len(name), name)):
            yield _placement(problem, demand, replica, *named[replica])


def _match(problem: Problem, before: Sequence[Placement], seats: Sequence[Seat]) -> tuple[dict[str, Seat], list[Seat]]:
    """Running replicas by name with the equal seat of the answer, and the seats left over."""
    free = defaultdict[tuple[frozenset[str], int], list[int]](list)
    for position, (devices, offload) in reversed(list(enumerate(seats))):
        free[_ids(problem, devices), offload].append(position)
    kept = dict[str, int]()
    for placement in before:
        same = free.get((frozenset(placement.devices), placement.offload_bytes))
        if same:
            kept[placement.replica] = same.pop()
    taken = set(kept.values())
    return {name: seats[at] for name, at in kept.items()}, [s for at, s in enumerate(seats) if at not in taken]


def _ids(problem: Problem, devices: DeviceSet) -> frozenset[str]:
    return frozenset(problem.devices[number].id for number in devices)


def _free_names(model: str, *, taken: dict[str, Seat]) -> Iterator[str]:
    names = (f"{model}#{ordinal}" for ordinal in count())
    return (name for name in names if name not in taken)


def _placement(problem: Problem, demand: Demand, replica: str, seat: Seat, reason: str) -> Placement:
    devices, offload = seat
    return Placement(
        replica=replica,
        model=demand.model,
        node=problem.devices[devices[0]].node,
        devices=tuple(problem.devices[number].id for number in devices),
        estimate=offloaded(demand.estimate, offload),
        reason=f"{reason}; {_price(seat)}" if offload else reason,
        offload_bytes=offload,
    )


def _reason(problem: Problem, loads: Sequence[Load], seat: Seat, before: Placement | None) -> str:
    devices, _ = seat
    left = min(problem.budgets[number] - loads[number].peak_bytes for number in devices)
    reason = f"leaves {gib(left)} above headroom at the peak"
    if len(devices) > 1:
        reason = f"{len(devices)} devices {_joined_by(problem, devices)}, {reason}"
    risk = max(problem.devices[number].risk_permille for number in devices)
    if risk >= RISK_THAT_COUNTS:
        reason = f"{reason}, at a risk of {risk / 1000:.2f} that a device fails"
    if before is None:
        return reason
    if frozenset(before.devices) == _ids(problem, devices):
        return f"starts again where it ran, with {gib(before.offload_bytes)} in host memory until now; {reason}"
    return f"moved from {', '.join(before.devices)}; {reason}"


def _price(seat: Seat) -> str:
    """What vLLM's CPU offload costs: these bytes are read over the bus at every step."""
    devices, offload = seat
    each = " on each device" if len(devices) > 1 else ""
    ms = offload * 1000 / BUS_BYTES_PER_S
    return f"reads {gib(offload)} of its weights from host memory{each} at every step, {ms:.0f} ms at 25 GB/s over PCIe"


def _joined_by(problem: Problem, devices: DeviceSet) -> str:
    members = [problem.devices[number] for number in devices]
    if all(a.id in b.nvlink_peers or b.id in a.nvlink_peers for a in members for b in members if a is not b):
        return "joined by NVLink"
    return "of one NUMA node" if len({device.numa_node for device in members}) == 1 else "of one node"
