"""Whether what a plan refuses had to be refused, and whether the facts of a refusal are facts.

Decidable without search: the placed replicas of the same and higher priorities stay where they are. Imports the
values, and the rules of room as the verifier states them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from enum import Enum, auto

from placement.check_room import (
    allowed_bytes,
    allowed_cpu_millis,
    allowed_host_bytes,
    healthy_enough,
    kept_free,
    resting,
    right_type,
    starting,
    weights_of,
)
from placement.demand import Demand
from placement.inventory import Device, DeviceKind, Inventory, Node
from placement.plan import Placement, Refusal, RefusalKind


class Vain(Enum):
    """How a refusal can be wrong."""

    NEEDLESS = auto()
    INVERTED = auto()


class _Rooms:
    """What some placements leave, by device id and by node name."""

    def __init__(
        self, placements: Sequence[Placement], inventory: Inventory, asked: dict[str, Demand], headroom: float
    ) -> None:
        self._allowed = {d.id: allowed_bytes(d, headroom) for node in inventory.nodes for d in node.devices}
        self._rest, self._start = defaultdict[str, int](int), defaultdict[str, int](int)
        self._cpu = {node.name: allowed_cpu_millis(node) for node in inventory.nodes}
        self._host = {node.name: allowed_host_bytes(node, headroom) for node in inventory.nodes}
        for placement in placements:
            self._add(placement, asked.get(placement.model))
        for node in inventory.nodes:
            memory = (device.id for device in node.devices if device.kind is DeviceKind.HOST)
            self._host[node.name] -= sum(self._rest[name] + self._start[name] for name in memory)

    def _add(self, placement: Placement, demand: Demand | None) -> None:
        for name in placement.devices:
            self._rest[name] += resting(placement.estimate)
            self._start[name] = max(self._start[name], starting(placement.estimate))
        if placement.node in self._host:
            self._host[placement.node] -= placement.offload_bytes * len(placement.devices)
            if demand is not None:
                self._cpu[placement.node] -= demand.cpu_millis
                self._host[placement.node] -= demand.host_memory_bytes

    def lacking(self, device: Device, demand: Demand) -> int:
        """Bytes the device lacks for one more replica; not above 0 where it fits."""
        start = max(self._start[device.id], starting(demand.estimate))
        return self._rest[device.id] + resting(demand.estimate) + start - self._allowed[device.id]

    def fits_on(self, node: Node, demand: Demand) -> bool:
        """Whether one more replica fits, with as much offloaded as it may and must."""
        takers = [d for d in node.devices if _takes(d, demand)]
        if demand.cpu_millis > self._cpu[node.name] or len(takers) < demand.tensor_parallel:
            return False
        size = demand.tensor_parallel
        if any(device.kind is DeviceKind.HOST for device in node.devices):
            more = sorted(self._more_memory(d, demand) for d in takers if self.lacking(d, demand) <= 0)
            return len(more) >= size and demand.host_memory_bytes + sum(more[:size]) <= self._host[node.name]
        offload = sorted(max(0, self.lacking(device, demand)) for device in takers)[size - 1]
        host = demand.host_memory_bytes + offload * size
        may = min(demand.max_offload_bytes, weights_of(demand))
        return offload <= may and (host == 0 or host <= self._host[node.name])

    def _more_memory(self, device: Device, demand: Demand) -> int:
        """Host memory that one more replica takes by lying on the device."""
        if device.kind is not DeviceKind.HOST:
            return 0
        return resting(demand.estimate) + max(0, starting(demand.estimate) - self._start[device.id])


def _takes(device: Device, demand: Demand) -> bool:
    return healthy_enough(device) and not device.cordoned and right_type(device, demand)


class RefusalCheck:
    """Looks at the refusals of one plan; what placements leave is summed once for each priority."""

    def __init__(
        self, placements: Sequence[Placement], inventory: Inventory, asked: dict[str, Demand], headroom: float
    ) -> None:
        self._placements, self._inventory, self._asked, self._headroom = placements, inventory, asked, headroom
        self._devices = {device.id: device for node in inventory.nodes for device in node.devices}
        self._all = _Rooms(placements, inventory, asked, headroom)
        self._above: dict[int, _Rooms] = {}

    def in_vain(self, demand: Demand) -> Vain | None:
        """Whether a replica fits beside what is placed, or beside what is placed of its own and higher priorities."""
        if self._fits(self._all, demand):
            return Vain.NEEDLESS
        return Vain.INVERTED if self._fits(self._without_lower(demand.priority), demand) else None

    def _fits(self, rooms: _Rooms, demand: Demand) -> bool:
        return any(rooms.fits_on(node, demand) for node in self._inventory.nodes)

    def _without_lower(self, priority: int) -> _Rooms:
        if priority not in self._above:
            asked = self._asked
            kept = [p for p in self._placements if p.model in asked and asked[p.model].priority >= priority]
            self._above[priority] = _Rooms(kept, self._inventory, asked, self._headroom)
        return self._above[priority]

    def wrong_facts(self, refusal: Refusal, demand: Demand) -> str:
        """What the refusal says that is not so; empty when all is."""
        peak, many = resting(demand.estimate) + starting(demand.estimate), len(self._devices)
        if refusal.needed_bytes != peak:
            return f"says it needs {refusal.needed_bytes} bytes, its demand needs {peak}"
        if sum(count for _, count in refusal.causes) != many or any(count < 1 for _, count in refusal.causes):
            return f"counts causes {refusal.causes}, there are {many} devices"
        if f"'{refusal.model}'" not in refusal.message or not refusal.message.endswith(refusal.advice):
            return "has a message without its model or its advice"
        return self._wrong_best(refusal, demand, peak) or self._wrong_kind(refusal, demand)

    def _wrong_best(self, refusal: Refusal, demand: Demand, peak: int) -> str:
        usable = {name: device for name, device in self._devices.items() if _takes(device, demand)}
        if refusal.best_device is None:
            room = 0
            if usable:
                return f"names no best of {len(usable)} usable devices"
        elif refusal.best_device not in usable:
            return f"names {refusal.best_device}, which takes no replica of it"
        else:
            room = max(0, peak - self._all.lacking(usable[refusal.best_device], demand))
        if refusal.best_room_bytes != room:
            return f"says {refusal.best_device} has {refusal.best_room_bytes} bytes of room, it has {room}"
        return ""

    def _wrong_kind(self, refusal: Refusal, demand: Demand) -> str:
        """Infeasible means: no more could run alone on this hardware at its best. Not looked at with offload."""
        if demand.max_offload_bytes:
            return ""
        placed = sum(placement.model == demand.model for placement in self._placements)
        best = sum(_most_alone(node, demand, self._headroom) for node in self._inventory.nodes)
        if (refusal.kind is RefusalKind.INFEASIBLE) == (best <= placed):
            return ""
        return f"is {refusal.kind.value}, but alone {best} of {demand.num_replicas} could run and {placed} are placed"


def _most_alone(node: Node, demand: Demand, headroom: float) -> int:
    """Replicas of the demand on the healthy and otherwise empty node."""
    is_memory = any(device.kind is DeviceKind.HOST for device in node.devices)
    each = resting(demand.estimate) + demand.host_memory_bytes * is_memory
    rooms = [d.total_bytes - kept_free(d.total_bytes, headroom) for d in node.devices if right_type(d, demand)]
    rooms = [room - starting(demand.estimate) for room in rooms]
    places = [max(0, room // each) if each else demand.num_replicas * (room >= 0) for room in rooms]
    most = demand.num_replicas
    if demand.cpu_millis:
        most = min(most, 1000 * node.num_cpus // demand.cpu_millis)
    if demand.host_memory_bytes and not is_memory:
        free = node.host_memory_bytes - kept_free(node.host_memory_bytes, headroom)
        most = min(most, free // demand.host_memory_bytes)
    size = demand.tensor_parallel
    return max((n for n in range(most + 1) if sum(min(place, n) for place in places) >= n * size), default=0)
