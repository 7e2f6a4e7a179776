"""Whether what a plan refuses had to be refused, and whether the facts of a refusal are facts.

Decidable without search: the placed replicas of the same and higher priorities stay where they are. Imports the
values, and the rules of room as the verifier states them.
"""

from __future__ import annotations

from collections import Counter
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
from placement.plan import Cause, Placement, Refusal, RefusalKind


class Vain(Enum):
    """How a refusal can be wrong."""

    NEEDLESS = auto()
    INVERTED = auto()


class _Fleet:
    """What devices and nodes allow, and which of them a demand may take."""

    def __init__(self, inventory: Inventory, headroom: float) -> None:
        self.nodes = inventory.nodes
        self.devices = {device.id: device for node in inventory.nodes for device in node.devices}
        self.allowed = {name: allowed_bytes(device, headroom) for name, device in self.devices.items()}
        self.whole = {
            name: device.total_bytes - kept_free(device.total_bytes, headroom) for name, device in self.devices.items()
        }
        self.cpu = {node.name: allowed_cpu_millis(node) for node in inventory.nodes}
        self.host = {node.name: allowed_host_bytes(node, headroom) for node in inventory.nodes}
        self.whole_host = {
            node.name: node.host_memory_bytes - kept_free(node.host_memory_bytes, headroom) for node in inventory.nodes
        }
        self._takers: dict[tuple[str, ...], list[tuple[Node, list[Device]]]] = {}
        self._closed: dict[tuple[str, ...], Counter[Cause]] = {}

    def takers(self, demand: Demand) -> list[tuple[Node, list[Device]]]:
        """Nodes with the devices that may take a share of it."""
        if demand.device_types not in self._takers:
            both = [(node, [device for device in node.devices if _takes(device, demand)]) for node in self.nodes]
            self._takers[demand.device_types] = [(node, devices) for node, devices in both if devices]
        return self._takers[demand.device_types]

    def closed(self, demand: Demand) -> Counter[Cause]:
        """Devices that take no share of it whatever is free there, by why."""
        if demand.device_types not in self._closed:
            self._closed[demand.device_types] = Counter(
                _why_closed(device, demand) for device in self.devices.values() if not _takes(device, demand)
            )
        return self._closed[demand.device_types]


class _Rooms:
    """What some placements leave, by device id and by node name."""

    def __init__(self, placements: Sequence[Placement], fleet: _Fleet, asked: dict[str, Demand]) -> None:
        self._fleet = fleet
        self._rest, self._start = dict.fromkeys(fleet.devices, 0), dict.fromkeys(fleet.devices, 0)
        self._cpu, self._host = dict(fleet.cpu), dict(fleet.host)
        for placement in placements:
            self._add(placement, asked.get(placement.model))
        for node in fleet.nodes:
            memory = [device.id for device in node.devices if device.kind is DeviceKind.HOST]
            self._host[node.name] -= sum(self._rest[name] + self._start[name] for name in memory)

    def _add(self, placement: Placement, demand: Demand | None) -> None:
        for name in placement.devices:
            if name in self._rest:
                self._rest[name] += resting(placement.estimate)
                self._start[name] = max(self._start[name], starting(placement.estimate))
        if placement.node in self._host:
            self._host[placement.node] -= placement.offload_bytes * len(placement.devices)
            if demand is not None:
                self._cpu[placement.node] -= demand.cpu_millis
                self._host[placement.node] -= demand.host_memory_bytes

    def fits(self, demand: Demand) -> bool:
        """Whether one more replica fits anywhere, with as much offloaded as it may and must."""
        rest, start = resting(demand.estimate), starting(demand.estimate)
        may = min(demand.max_offload_bytes, weights_of(demand))
        for node, takers in self._fleet.takers(demand):
            lacking = [self._lacking(device.id, rest, start) for device in takers]
            if min(lacking) <= may and self._fits_on(node, takers, lacking, demand):
                return True
        return False

    def _lacking(self, name: str, rest: int, start: int) -> int:
        here = self._start[name]
        return self._rest[name] + rest + (here if here > start else start) - self._fleet.allowed[name]

    def room(self, device: Device, demand: Demand) -> int:
        """The largest peak a replica that starts like this one could have there."""
        rest, start = resting(demand.estimate), starting(demand.estimate)
        return rest + start - self._lacking(device.id, rest, start)

    def _fits_on(self, node: Node, takers: Sequence[Device], lacking: Sequence[int], demand: Demand) -> bool:
        size = demand.tensor_parallel
        if demand.cpu_millis > self._cpu[node.name] or len(takers) < size:
            return False
        if any(device.kind is DeviceKind.HOST for device in node.devices):
            fitting = [device for device, lacks in zip(takers, lacking, strict=True) if lacks <= 0]
            more = sorted(self._more_memory(device, demand) for device in fitting)
            return len(more) >= size and demand.host_memory_bytes + sum(more[:size]) <= self._host[node.name]
        offload = max(0, sorted(lacking)[size - 1])
        host = demand.host_memory_bytes + offload * size
        may = min(demand.max_offload_bytes, weights_of(demand))
        return offload <= may and (host == 0 or host <= self._host[node.name])

    def causes(self, demand: Demand) -> dict[Cause, int]:
        """Devices by why they take no replica of the demand."""
        counts = Counter[Cause]()
        for node, takers in self._fleet.takers(demand):
            counts.update(self._cause(device, node, len(takers), demand) for device in takers)
        counts.update(self._fleet.closed(demand))
        return dict(counts)

    def _cause(self, device: Device, node: Node, num_takers: int, demand: Demand) -> Cause:
        rest, start = resting(demand.estimate), starting(demand.estimate)
        is_memory = any(other.kind is DeviceKind.HOST for other in node.devices)
        may = 0 if is_memory else min(demand.max_offload_bytes, weights_of(demand))
        lacking = self._lacking(device.id, rest, start)
        if self._fleet.whole[device.id] < rest + start - may:
            return Cause.TOO_SMALL
        if num_takers < demand.tensor_parallel:
            return Cause.TOO_FEW_DEVICES
        if lacking > may:
            return Cause.NO_ROOM
        if demand.cpu_millis > self._cpu[node.name]:
            return Cause.NO_CPU
        host = demand.host_memory_bytes + max(0, lacking) * demand.tensor_parallel + self._more_memory(device, demand)
        return Cause.NO_ROOM if host <= self._host[node.name] else Cause.NO_HOST_MEMORY

    def _more_memory(self, device: Device, demand: Demand) -> int:
        """Host memory that one more replica takes by lying on the device."""
        if device.kind is not DeviceKind.HOST:
            return 0
        return resting(demand.estimate) + max(0, starting(demand.estimate) - self._start[device.id])


def _takes(device: Device, demand: Demand) -> bool:
    return healthy_enough(device) and not device.cordoned and right_type(device, demand)


def _why_closed(device: Device, demand: Demand) -> Cause:
    if not right_type(device, demand):
        return Cause.WRONG_TYPE
    return Cause.CORDONED if device.cordoned else Cause.UNHEALTHY


class RefusalCheck:
    """Looks at the refusals of one plan; what placements leave is summed once for each priority."""

    def __init__(
        self, placements: Sequence[Placement], inventory: Inventory, asked: dict[str, Demand], headroom: float
    ) -> None:
        self._placements, self._asked = placements, asked
        self._fleet = _Fleet(inventory, headroom)
        self._all = _Rooms(placements, self._fleet, asked)
        self._above: dict[int, _Rooms] = {}
        self._placed = Counter(placement.model for placement in placements)
        self._lowest = min((self._priority(placement) for placement in placements), default=0.0)

    def _priority(self, placement: Placement) -> float:
        """What nobody asked for is lower than anything."""
        demand = self._asked.get(placement.model)
        return demand.priority if demand else float("-inf")

    def in_vain(self, demand: Demand) -> Vain | None:
        """Whether a replica fits beside what is placed, or beside what is placed of its own and higher priorities."""
        if self._all.fits(demand):
            return Vain.NEEDLESS
        if demand.priority <= self._lowest:
            return None
        return Vain.INVERTED if self._without_lower(demand.priority).fits(demand) else None

    def _without_lower(self, priority: int) -> _Rooms:
        if priority not in self._above:
            kept = [placement for placement in self._placements if self._priority(placement) >= priority]
            self._above[priority] = _Rooms(kept, self._fleet, self._asked)
        return self._above[priority]

    def wrong_facts(self, refusal: Refusal, demand: Demand) -> str:
        """What the refusal says that is not so; empty when all is."""
        peak, many = resting(demand.estimate) + starting(demand.estimate), len(self._fleet.devices)
        if refusal.needed_bytes != peak:
            return f"says it needs {refusal.needed_bytes} bytes, its demand needs {peak}"
        causes = self._all.causes(demand)
        if dict(refusal.causes) != causes or len(refusal.causes) != len(causes):
            return f"counts causes {refusal.causes}, they are {causes} of {many} devices"
        if f"'{refusal.model}'" not in refusal.message:
            return "has a message without its model"
        if not refusal.advice or not refusal.message.endswith(refusal.advice):
            return "has a message without its advice"
        return self._wrong_best(refusal, demand) or self._wrong_kind(refusal, demand)

    def _wrong_best(self, refusal: Refusal, demand: Demand) -> str:
        device, room = self._fleet.devices.get(refusal.best_device or ""), 0
        if refusal.best_device is None:
            if self._fleet.takers(demand):
                return "names no best device, though some take shares of it"
        elif device is None or not _takes(device, demand):
            return f"names {refusal.best_device}, which takes no replica of it"
        else:
            room = max(0, self._all.room(device, demand))
        if refusal.best_room_bytes != room:
            return f"says {refusal.best_device} has {refusal.best_room_bytes} bytes of room, it has {room}"
        return ""

    def _wrong_kind(self, refusal: Refusal, demand: Demand) -> str:
        """Infeasible means: no more could run alone on this hardware at its best. Not looked at with offload."""
        if demand.max_offload_bytes:
            return ""
        placed, could = self._placed[demand.model], 0
        for node in self._fleet.nodes:
            could += _most_alone(node, demand, self._fleet)
            if could > placed:
                break
        if (refusal.kind is RefusalKind.INFEASIBLE) == (could <= placed):
            return ""
        return f"is {refusal.kind.value}, but alone {could} of {demand.num_replicas} could run and {placed} are placed"


def _most_alone(node: Node, demand: Demand, fleet: _Fleet) -> int:
    """Replicas of the demand on the healthy and otherwise empty node."""
    is_memory = any(device.kind is DeviceKind.HOST for device in node.devices)
    each = resting(demand.estimate) + demand.host_memory_bytes * is_memory
    start = starting(demand.estimate)
    rooms = [fleet.whole[device.id] - start for device in node.devices if right_type(device, demand)]
    places = [max(0, room // each) if each else demand.num_replicas * (room >= 0) for room in rooms]
    most = min(demand.num_replicas, sum(places))
    if demand.cpu_millis:
        most = min(most, 1000 * node.num_cpus // demand.cpu_millis)
    if demand.host_memory_bytes and not is_memory:
        most = min(most, fleet.whole_host[node.name] // demand.host_memory_bytes)
    size = demand.tensor_parallel
    possible = range(most, 0, -1)
    return next((n for n in possible if sum(min(place, n) for place in places) >= n * size), 0)
