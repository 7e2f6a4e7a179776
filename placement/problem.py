"""The question as the solvers see it: devices by number, budgets in bytes, demands in the order they are served.

Made once by `pose`, which also rejects questions that contradict themselves. Both solvers read it, neither changes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb

from placement.demand import Demand
from placement.errors import InvalidProblem
from placement.feasible import EMPTY, Load, budget_bytes, is_usable, need_of
from placement.inventory import Device, DeviceHealth, Inventory
from placement.plan import Placement
from placement.policy import Policy

DeviceSet = tuple[int, ...]
"""Ascending numbers of the devices one replica uses; one number unless tensor parallel."""

COST_NOT_HEALTHY = 1000
COST_NO_NVLINK = 10
COST_OTHER_NUMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`demands` run from the highest priority to the lowest; `needs[i]` is what one replica of
    `demands[i]` needs on each of its devices, `running[i]` where its replicas run.

    `usable` groups the numbers of devices that may take shares by node. A running replica on a device that
    may not, or on another number of devices than asked now, is left out of `running`: it cannot stay.
    """

    policy: Policy
    devices: tuple[Device, ...]
    budgets: tuple[int, ...]
    usable: tuple[DeviceSet, ...]
    demands: tuple[Demand, ...]
    needs: tuple[Load, ...]
    running: tuple[tuple[DeviceSet, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """`sets[i]` are the device sets of the placed replicas of `demands[i]`; fewer than asked means refused."""

    sets: tuple[tuple[DeviceSet, ...], ...]
    solver: str
    gap: float | None


def pose(inventory: Inventory, demands: Sequence[Demand], policy: Policy, running: Sequence[Placement] = ()) -> Problem:
    """Raises: InvalidProblem when the question contradicts itself."""
    _reject_bad_inventory(inventory)
    _reject_bad_demands(demands)
    if not 0.0 <= policy.headroom < 1.0:
        raise InvalidProblem(f"headroom is {policy.headroom}; it must be at least 0 and below 1")
    devices = inventory.devices
    ordered = tuple(sorted(demands, key=lambda demand: -demand.priority))
    return Problem(
        policy=policy,
        devices=devices,
        budgets=tuple(budget_bytes(device, policy.headroom) for device in devices),
        usable=_usable_by_node(inventory),
        demands=ordered,
        needs=tuple(need_of(demand.estimate) for demand in ordered),
        running=tuple(_running_sets(demand, devices, running) for demand in ordered),
    )


def loads_of(problem: Problem, sets: Sequence[Sequence[DeviceSet]]) -> list[Load]:
    """Load of every device when replicas of demand i lie on `sets[i]`."""
    loads = [EMPTY for _ in problem.devices]
    for need, of_demand in zip(problem.needs, sets, strict=True):
        for number in (number for devices in of_demand for number in devices):
            loads[number] = loads[number].plus(need)
    return loads


def set_cost(problem: Problem, devices: DeviceSet) -> int:
    """How unwelcome a set is apart from room: ailing devices first, then pairs without NVLink, then NUMA crossings."""
    cost = sum(COST_NOT_HEALTHY for number in devices if problem.devices[number].health is not DeviceHealth.HEALTHY)
    for position, first in enumerate(devices):
        for second in devices[position + 1 :]:
            cost += _pair_cost(problem.devices[first], problem.devices[second])
    return cost


def num_sets(problem: Problem, demand: Demand) -> int:
    """How many device sets one replica could be tried on, were there room everywhere."""
    return sum(comb(len(numbers), demand.tensor_parallel) for numbers in problem.usable)


def _pair_cost(first: Device, second: Device) -> int:
    linked = second.id in first.nvlink_peers or first.id in second.nvlink_peers
    return COST_NO_NVLINK * (not linked) + COST_OTHER_NUMA * (first.numa_node != second.numa_node)


def _usable_by_node(inventory: Inventory) -> tuple[DeviceSet, ...]:
    groups, number = [], 0
    for node in inventory.nodes:
        numbers = range(number, number + len(node.devices))
        number += len(node.devices)
        groups.append(tuple(n for n, device in zip(numbers, node.devices, strict=True) if is_usable(device)))
    return tuple(groups)


def _running_sets(demand: Demand, devices: tuple[Device, ...], running: Sequence[Placement]) -> tuple[DeviceSet, ...]:
    number_of = {device.id: number for number, device in enumerate(devices) if is_usable(device)}
    mine = sorted((p for p in running if p.model == demand.model), key=lambda p: (len(p.replica), p.replica))
    return tuple(
        tuple(sorted(number_of[device] for device in placement.devices))
        for placement in mine
        if len(placement.devices) == demand.tensor_parallel and all(device in number_of for device in placement.devices)
    )


def _reject_bad_inventory(inventory: Inventory) -> None:
    _reject_twice("node", (node.name for node in inventory.nodes))
    _reject_twice("device", (device.id for device in inventory.devices))
    for node in inventory.nodes:
        for device in node.devices:
            if device.node != node.name:
                raise InvalidProblem(
                    f"device '{device.id}' is listed under node '{node.name}' but names '{device.node}'"
                )
            if device.total_bytes < 0 or any(holding.num_bytes < 0 for holding in device.holdings):
                raise InvalidProblem(f"device '{device.id}' has a negative number of bytes")


def _reject_bad_demands(demands: Sequence[Demand]) -> None:
    _reject_twice("demand for model", (demand.model for demand in demands))
    for demand in demands:
        where = demand.path or f"demand '{demand.model}'"
        if any(part.num_bytes < 0 for part in demand.estimate.parts):
            raise InvalidProblem(f"{where} has an estimate with a negative number of bytes")
        if demand.num_replicas < 0 or demand.tensor_parallel < 1:
            raise InvalidProblem(
                f"{where} asks for {demand.num_replicas} replicas on {demand.tensor_parallel} devices each; "
                "replicas must not be negative and devices at least 1"
            )


def _reject_twice(what: str, names: Iterable[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InvalidProblem(f"{what} '{twice[0]}' is given more than once")
