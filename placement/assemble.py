"""From device sets to a plan people can read: names, reasons, strategy, refusals.

Replicas that stay keep their names; all others take the lowest free ordinals of their model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from placement.demand import Demand
from placement.feasible import Load
from placement.inventory import Inventory
from placement.missing import Missing
from placement.plan import Placement, Plan, Refusal, Strategy
from placement.problem import Answer, DeviceSet, Problem, loads_of
from placement.refusal import refuse
from placement.units import gib


def assemble(problem: Problem, answer: Answer, inventory: Inventory, running: Sequence[Placement]) -> Plan:
    placements = tuple(_placements(problem, answer, running))
    refusals = tuple(_refusals(problem, answer))
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
    """The name of what was done: refusals say most, then replicas over several devices, then how many devices."""
    if refusals:
        return Strategy.REDUCED
    if any(len(placement.devices) > 1 for placement in placements):
        return Strategy.TENSOR_PARALLEL
    devices = {device for placement in placements for device in placement.devices}
    return Strategy.MULTI_DEVICE if len(devices) > 1 else Strategy.SINGLE_DEVICE


def _refusals(problem: Problem, answer: Answer) -> Iterator[Refusal]:
    loads = loads_of(problem, answer.sets)
    for index, (demand, sets) in enumerate(zip(problem.demands, answer.sets, strict=True)):
        if len(sets) < demand.num_replicas:
            yield refuse(Missing(problem, answer.sets, loads, index))


def _placements(problem: Problem, answer: Answer, running: Sequence[Placement]) -> Iterator[Placement]:
    loads = loads_of(problem, answer.sets)
    for demand, sets in zip(problem.demands, answer.sets, strict=True):
        before = [placement for placement in running if placement.model == demand.model]
        kept, new = _match(problem, before, sets)
        named = {placement.replica: (devices, "stays where it runs") for placement, devices in kept}
        gone = [placement for placement in before if placement.replica not in named]
        for devices, name in zip(new, _free_names(demand.model, taken=set(named)), strict=False):
            moved_from = next((placement for placement in gone if placement.replica == name), None)
            named[name] = (devices, _reason(problem, loads, devices, moved_from))
        for replica in sorted(named, key=lambda name: (len(name), name)):
            devices, reason = named[replica]
            yield _placement(problem, demand, replica, devices, reason)


def _match(
    problem: Problem, before: Sequence[Placement], sets: Sequence[DeviceSet]
) -> tuple[list[tuple[Placement, DeviceSet]], list[DeviceSet]]:
    """Running replicas paired with an equal set of the answer, and the sets left over."""
    left, kept = list(sets), list[tuple[Placement, DeviceSet]]()
    for placement in sorted(before, key=lambda placement: (len(placement.replica), placement.replica)):
        same = next((s for s in left if {problem.devices[n].id for n in s} == set(placement.devices)), None)
        if same is not None:
            left.remove(same)
            kept.append((placement, same))
    return kept, left


def _free_names(model: str, *, taken: set[str]) -> Iterator[str]:
    names = (f"{model}#{ordinal}" for ordinal in count())
    return (name for name in names if name not in taken)


def _placement(problem: Problem, demand: Demand, replica: str, devices: DeviceSet, reason: str) -> Placement:
    return Placement(
        replica=replica,
        model=demand.model,
        node=problem.devices[devices[0]].node,
        devices=tuple(problem.devices[number].id for number in devices),
        estimate=demand.estimate,
        reason=reason,
    )


def _reason(problem: Problem, loads: Sequence[Load], devices: DeviceSet, moved_from: Placement | None) -> str:
    left = min(problem.budgets[number] - loads[number].peak_bytes for number in devices)
    reason = f"leaves {gib(left)} above headroom at the peak"
    if len(devices) > 1:
        reason = f"{len(devices)} devices {_joined_by(problem, devices)}, {reason}"
    return f"moved from {', '.join(moved_from.devices)}; {reason}" if moved_from else reason


def _joined_by(problem: Problem, devices: DeviceSet) -> str:
    members = [problem.devices[number] for number in devices]
    if all(a.id in b.nvlink_peers or b.id in a.nvlink_peers for a in members for b in members if a is not b):
        return "joined by NVLink"
    return "of one NUMA node" if len({device.numa_node for device in members}) == 1 else "of one node"
