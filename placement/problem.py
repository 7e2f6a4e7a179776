"""The question as the solvers see it: devices by number, budgets and needs in bytes, demands in the order of serving.

Made once by `pose`; `reject.py` turns away questions that contradict themselves. All solvers read it, none changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

from placement.demand import Demand
from placement.feasible import (
    EMPTY,
    Load,
    budget_bytes,
    host_bytes_of,
    is_of_type,
    is_usable,
    limit_bytes,
    most_offload_bytes,
    need_of,
    node_cpu_millis,
    node_memory_bytes,
)
from placement.goals import weights_of
from placement.inventory import Device, DeviceHealth, DeviceKind, Inventory, Node
from placement.plan import GoalReached, Placement
from placement.policy import Policy
from placement.reject import reject_contradictions

DeviceSet = tuple[int, ...]
"""Ascending numbers of the devices one replica uses; one number unless tensor parallel."""

COST_NOT_HEALTHY = 1000
RISK_THAT_COUNTS = 100
"""Thousandths. A forecast below is noise, and nobody's place should depend on noise."""
COST_NO_NVLINK = 10
COST_OTHER_NUMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBudget:
    """What replicas on one node may take together beside their devices.

    `host_devices` are the devices that are the node's memory: their load at its peak counts against `memory_bytes`
    as well. Where there is none, only `host_bytes_of` the replicas does. A replica that asks for no cores (no host
    memory) is not held to them. `all_cpu_millis` and `all_memory_bytes` are what they could take if nobody else were
    there.
    """

    name: str
    cpu_millis: int
    memory_bytes: int
    all_cpu_millis: int
    all_memory_bytes: int
    host_devices: DeviceSet


class NodeUse(NamedTuple):
    """What replicas take of one node beside their devices."""

    cpu_millis: int
    host_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`demands` run from the highest priority to the lowest; `needs[i]` is what one replica of
    `demands[i]` needs on each of its devices with nothing offloaded, `max_offloads[i]` how many of these bytes, per
    device, may lie in host memory instead, `weights[i]` what one counts among those of its priority, `running[i]`
    where its replicas run and `running_offloads[i]` with how much offloaded.

    `usable` groups the numbers of devices that may take shares by node. `of_type[i]` are all devices of a type that
    `demands[i]` takes, in whatever state, `allowed[i]` the usable ones among them by node. `nodes` and
    `node_of` (by device number) say what else a node has. `limits` are the devices'
    bytes below headroom, `budgets` the same less holdings. A running replica on a device that may not take it, on
    another number of devices or with more offloaded than asked now, is left out of `running`: it cannot stay.
    """

    policy: Policy
    devices: tuple[Device, ...]
    limits: tuple[int, ...]
    budgets: tuple[int, ...]
    usable: tuple[DeviceSet, ...]
    nodes: tuple[NodeBudget, ...]
    node_of: tuple[int, ...]
    demands: tuple[Demand, ...]
    of_type: tuple[DeviceSet, ...]
    allowed: tuple[tuple[DeviceSet, ...], ...]
    needs: tuple[Load, ...]
    weights: tuple[int, ...]
    max_offloads: tuple[int, ...]
    running: tuple[tuple[DeviceSet, ...], ...]
    running_offloads: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """`sets[i]` are the device sets of the placed replicas of `demands[i]`; fewer than asked means refused.

    `offloads[i]` are the bytes each of them offloads per device, in the order of `sets[i]`; empty when nobody does.
    """

    sets: tuple[tuple[DeviceSet, ...], ...]
    solver: str
    gap: float | None
    offloads: tuple[tuple[int, ...], ...] = ()
    goals: tuple[GoalReached, ...] = ()

    def offloads_of(self, index: int) -> tuple[int, ...]:
        return self.offloads[index] if self.offloads else (0,) * len(self.sets[index])


def pose(inventory: Inventory, demands: Sequence[Demand], policy: Policy, running: Sequence[Placement] = ()) -> Problem:
    """Raises: InvalidProblem when the question contradicts itself."""
    reject_contradictions(inventory, demands, policy)
    devices, usable = inventory.devices, _usable_by_node(inventory)
    ordered = tuple(sorted(demands, key=lambda demand: -demand.priority))
    all_types = dict.fromkeys(demand.device_types for demand in ordered)
    of_type = {types: _of_type(devices, types) for types in all_types}
    allowed_by = {types: _among(usable, numbers) for types, numbers in of_type.items()}
    runs = _Runs(inventory, usable, running)
    stays = [runs.of(demand, allowed_by[demand.device_types]) for demand in ordered]
    return Problem(
        policy=policy,
        devices=devices,
        limits=tuple(limit_bytes(device.total_bytes, policy.headroom) for device in devices),
        budgets=tuple(budget_bytes(device, policy.headroom) for device in devices),
        usable=usable,
        nodes=tuple(_node_budgets(inventory, policy)),
        node_of=tuple(number for number, node in enumerate(inventory.nodes) for _ in node.devices),
        demands=ordered,
        of_type=tuple(of_type[demand.device_types] for demand in ordered),
        allowed=tuple(allowed_by[demand.device_types] for demand in ordered),
        needs=tuple(need_of(demand.estimate) for demand in ordered),
        weights=weights_of(ordered),
        max_offloads=tuple(most_offload_bytes(demand) for demand in ordered),
        running=tuple(tuple(devices for devices, _ in of_demand) for of_demand in stays),
        running_offloads=tuple(tuple(offload for _, offload in of_demand) for of_demand in stays),
    )


def loads_of(
    problem: Problem, sets: Sequence[Sequence[DeviceSet]], offloads: Sequence[Sequence[int]] = ()
) -> list[Load]:
    """Load of every device when replicas of demand i lie on `sets[i]`, with `offloads[i]` in host memory."""
    rests, starts = [0] * len(problem.devices), [0] * len(problem.devices)
    for index, (need, of_demand) in enumerate(zip(problem.needs, sets, strict=True)):
        for position, devices in enumerate(of_demand):
            offload = offloads[index][position] if offloads else 0
            for number in devices:
                rests[number] += need.rest_bytes - offload
                starts[number] = max(starts[number], need.start_bytes)
    return [Load(*of_device) if any(of_device) else EMPTY for of_device in zip(rests, starts, strict=True)]


def uses_of(
    problem: Problem, sets: Sequence[Sequence[DeviceSet]], offloads: Sequence[Sequence[int]] = ()
) -> list[NodeUse]:
    """What these replicas take of every node beside their devices."""
    cpus, hosts = [0] * len(problem.nodes), [0] * len(problem.nodes)
    for index, (demand, of_demand) in enumerate(zip(problem.demands, sets, strict=True)):
        for position, devices in enumerate(of_demand):
            node = problem.node_of[devices[0]]
            cpus[node] += demand.cpu_millis
            hosts[node] += host_bytes_of(demand, offloads[index][position] if offloads else 0)
    return [NodeUse(*of_node) for of_node in zip(cpus, hosts, strict=True)]


def set_cost(problem: Problem, devices: DeviceSet) -> int:
    """How unwelcome a set is apart from room: ailing devices first, then pairs without NVLink, then NUMA crossings."""
    cost = sum(ailment(problem.devices[number]) for number in devices)
    for position, first in enumerate(devices):
        for second in devices[position + 1 :]:
            cost += _pair_cost(problem.devices[first], problem.devices[second])
    return cost


def ailment(device: Device) -> int:
    """What a device costs for not being healthy, and for a risk that counts: its thousandths."""
    risk = device.risk_permille if device.risk_permille >= RISK_THAT_COUNTS else 0
    return risk + (COST_NOT_HEALTHY if device.health is not DeviceHealth.HEALTHY else 0)


def num_sets(problem: Problem, index: int) -> int:
    """How many device sets one replica of the demand could be tried on, were there room everywhere."""
    size = problem.demands[index].tensor_parallel
    return sum(comb(len(numbers), size) for numbers in problem.allowed[index])


def may_offload(problem: Problem, index: int, node: int) -> bool:
    """Whether moving weights to host memory makes room there; on a host device both are the same memory."""
    return problem.max_offloads[index] > 0 and not problem.nodes[node].host_devices


def _pair_cost(first: Device, second: Device) -> int:
    linked = second.id in first.nvlink_peers or first.id in second.nvlink_peers
    return COST_NO_NVLINK * (not linked) + COST_OTHER_NUMA * (first.numa_node != second.numa_node)


def _usable_by_node(inventory: Inventory) -> tuple[DeviceSet, ...]:
    return tuple(
        tuple(number for number, device in zip(numbers, node.devices, strict=True) if is_usable(device))
        for node, numbers in _numbered(inventory)
    )


def _numbered(inventory: Inventory) -> list[tuple[Node, range]]:
    """Every node with the numbers of its devices."""
    numbered, number = list[tuple[Node, range]](), 0
    for node in inventory.nodes:
        numbered.append((node, range(number, number + len(node.devices))))
        number += len(node.devices)
    return numbered


def _node_budgets(inventory: Inventory, policy: Policy) -> list[NodeBudget]:
    return [
        NodeBudget(
            name=node.name,
            cpu_millis=node_cpu_millis(node),
            memory_bytes=node_memory_bytes(node, policy.headroom),
            all_cpu_millis=node.num_cpus * 1000,
            all_memory_bytes=limit_bytes(node.host_memory_bytes, policy.headroom),
            host_devices=tuple(
                number for number, device in zip(numbers, node.devices, strict=True) if device.kind is DeviceKind.HOST
            ),
        )
        for node, numbers in _numbered(inventory)
    ]


def _of_type(devices: Sequence[Device], types: tuple[str, ...]) -> DeviceSet:
    return tuple(number for number, device in enumerate(devices) if is_of_type(device.product, types))


def _among(usable: tuple[DeviceSet, ...], numbers: DeviceSet) -> tuple[DeviceSet, ...]:
    wanted = frozenset(numbers)
    return tuple(tuple(number for number in of_node if number in wanted) for of_node in usable)


def places_of(running: Sequence[Placement]) -> dict[str, list[Placement]]:
    """Placements by model, in the order of their names."""
    of_model: dict[str, list[Placement]] = {}
    for placement in sorted(running, key=lambda placement: (len(placement.replica), placement.replica)):
        of_model.setdefault(placement.model, []).append(placement)
    return of_model


class _Runs:
    """The placements in force, with the numbers of the devices they lie on."""

    def __init__(self, inventory: Inventory, usable: Sequence[DeviceSet], running: Sequence[Placement]) -> None:
        devices = inventory.devices
        self._number_of = {devices[number].id: number for of_node in usable for number in of_node}
        self._hosts = {device.id for device in devices if device.kind is DeviceKind.HOST}
        self._of_model = places_of(running)

    def of(self, demand: Demand, allowed: Sequence[DeviceSet]) -> list[tuple[DeviceSet, int]]:
        """Device sets and offloaded bytes of the replicas that could stay as they are."""
        return [
            (tuple(sorted(self._number_of[device] for device in placement.devices)), placement.offload_bytes)
            for placement in self._of_model.get(demand.model, ())
            if self._could_stay(placement, demand, allowed)
        ]

    def _could_stay(self, placement: Placement, demand: Demand, allowed: Sequence[DeviceSet]) -> bool:
        numbers = {self._number_of.get(device) for device in placement.devices}
        most = 0 if self._hosts.intersection(placement.devices) else most_offload_bytes(demand)
        return (
            len(placement.devices) == len(numbers) == demand.tensor_parallel
            and 0 <= placement.offload_bytes <= most
            and any(numbers <= set(of_node) for of_node in allowed)
        )
