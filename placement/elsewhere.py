"""Why a replica lies where it lies: for every other device the cause that keeps it away, with its numbers.

Part of the certificate, and like it without a line of the solver's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from placement.demand import Demand, PartName
from placement.inventory import Device, DeviceHealth, DeviceKind, Inventory, Node
from placement.plan import Cause, Placement, Plan

MAX_NAMED_DEVICES = 16
"""Devices named for one cause of one replica; the rest are counted."""


class Unit(StrEnum):
    BYTES = "bytes"
    CPU_MILLIS = "cpu_millis"
    DEVICES = "devices"
    NONE = "none"
    """The cause has no number: a type, a state of health."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherDevice:
    """What the replica would need there and what there is of it, in the unit. `state` names health or product."""

    device: str
    needed: int
    available: int
    unit: Unit
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One cause for `num_devices` devices; `devices` are those of them that come nearest.

    `cause` None: the replica would fit there as well, but a plan with it there is worse by the goals.
    """

    cause: Cause | None
    num_devices: int
    devices: tuple[OtherDevice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """`subject` is a placed replica, or a model of which `num_refused` replicas were refused (then `on` is empty)."""

    subject: str
    num_refused: int
    on: tuple[str, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class _Need:
    """One replica as it would lie on another device."""

    rest_bytes: int
    start_bytes: int
    host_bytes: int
    demand: Demand

    @property
    def peak_bytes(self) -> int:
        return self.rest_bytes + self.start_bytes


def why_not_elsewhere(plan: Plan, inventory: Inventory, demands: Sequence[Demand]) -> tuple[Elsewhere, ...]:
    """For each placed replica all devices but its own, for each refused model all devices."""
    asked, fleet = {demand.model: demand for demand in demands}, _Fleet(plan, inventory, demands)
    placed = [
        Elsewhere(
            subject=placement.replica,
            num_refused=0,
            on=placement.devices,
            reasons=fleet.reasons(_need_as_placed(placement, asked[placement.model]), placement),
        )
        for placement in plan.placements
        if placement.model in asked
    ]
    refused = [
        Elsewhere(
            subject=refusal.model,
            num_refused=refusal.num_replicas,
            on=(),
            reasons=fleet.reasons(_least_need(asked[refusal.model]), None),
        )
        for refusal in plan.refusals
        if refusal.model in asked
    ]
    return (*placed, *refused)


def _need_as_placed(placement: Placement, demand: Demand) -> _Need:
    rest, start = _rest_and_start(placement)
    host = demand.host_memory_bytes + placement.offload_bytes * len(placement.devices)
    return _Need(rest, start, host, demand)


def _least_need(demand: Demand) -> _Need:
    """With as much in host memory as the demand lets go there."""
    rest, start = _rest_and_start(demand)
    weights = sum(part.num_bytes for part in demand.estimate.parts if part.name is PartName.WEIGHTS)
    offload = min(demand.max_offload_bytes, weights)
    return _Need(rest - offload, start, demand.host_memory_bytes + offload * demand.tensor_parallel, demand)


_Found = tuple[Cause | None, OtherDevice]


class _Fleet:
    """The devices with what the plan puts on them, added up once."""

    def __init__(self, plan: Plan, inventory: Inventory, demands: Sequence[Demand]) -> None:
        asked = {demand.model: demand for demand in demands}
        self._nodes = inventory.nodes
        self._ratio = Decimal(str(plan.headroom)).as_integer_ratio()
        self._allowed = {
            device.id: self._without_headroom(device.total_bytes) - sum(held.num_bytes for held in device.holdings)
            for device in inventory.devices
        }
        self._rest, self._start = dict[str, int](), dict[str, int]()
        self._millis, self._host = dict[str, int](), dict[str, int]()
        self._looks: dict[_Need, dict[str, tuple[_Found, ...]]] = {}
        for placement in plan.placements:
            rest, start = _rest_and_start(placement)
            for device in placement.devices:
                self._rest[device] = self._rest.get(device, 0) + rest
                self._start[device] = max(self._start.get(device, 0), start)
            if placement.model in asked:
                need = _need_as_placed(placement, asked[placement.model])
                self._millis[placement.node] = self._millis.get(placement.node, 0) + need.demand.cpu_millis
                self._host[placement.node] = self._host.get(placement.node, 0) + need.host_bytes

    def reasons(self, need: _Need, own: Placement | None) -> tuple[Reason, ...]:
        found: dict[Cause | None, list[OtherDevice]] = {}
        for cause, other in self._each(need, own):
            found.setdefault(cause, []).append(other)
        order = [*Cause, None]
        return tuple(
            Reason(cause=cause, num_devices=len(found[cause]), devices=_nearest(found[cause]))
            for cause in order
            if cause in found
        )

    def _each(self, need: _Need, own: Placement | None) -> Iterator[_Found]:
        """All nodes but its own are alike for all replicas of a model."""
        if need not in self._looks:
            self._looks[need] = {node.name: tuple(self._on_node(node, need, None)) for node in self._nodes}
        for node in self._nodes:
            is_home = own is not None and own.node == node.name
            yield from self._on_node(node, need, own) if is_home else self._looks[need][node.name]

    def _on_node(self, node: Node, need: _Need, own: Placement | None) -> Iterator[_Found]:
        mine = own.devices if own else ()
        takers = [device for device in node.devices if _takes_shares(device) and _is_of_type(device, need.demand)]
        with_room = sum(d.id in mine or self._room(d, need) >= need.peak_bytes for d in takers)
        for device in node.devices:
            if device.id not in mine:
                yield self._look(device, node, need, own, num_takers=len(takers), num_with_room=with_room)

    def _look(
        self, device: Device, node: Node, need: _Need, own: Placement | None, *, num_takers: int, num_with_room: int
    ) -> _Found:
        state = _why_not_usable(device, need.demand)
        if state:
            return state[0], OtherDevice(device=device.id, needed=0, available=0, unit=Unit.NONE, state=state[1])
        size, empty, room = (
            need.demand.tensor_parallel,
            self._without_headroom(device.total_bytes),
            self._room(device, need),
        )
        of_bytes = OtherDevice(device=device.id, needed=need.peak_bytes, available=max(0, room), unit=Unit.BYTES)
        if empty < need.peak_bytes:
            return Cause.TOO_SMALL, replace(of_bytes, available=empty)
        if num_takers < size:
            devices = OtherDevice(device=device.id, needed=size, available=num_takers, unit=Unit.DEVICES)
            return Cause.TOO_FEW_DEVICES, devices
        if room < need.peak_bytes:
            return Cause.NO_ROOM, of_bytes
        if num_with_room < size:
            return Cause.NO_ROOM, OtherDevice(device=device.id, needed=size, available=num_with_room, unit=Unit.DEVICES)
        return self._look_at_node(device, node, need, own) or (None, of_bytes)

    def _look_at_node(
        self, device: Device, node: Node, need: _Need, own: Placement | None
    ) -> tuple[Cause, OtherDevice] | None:
        """Cores and host memory, with those counted as free that the replica has there itself."""
        is_home = own is not None and own.node == node.name
        millis = node.num_cpus * 1000 - node.held_cpu_millis - self._millis.get(node.name, 0)
        millis += need.demand.cpu_millis if is_home else 0
        if need.demand.cpu_millis > max(0, millis):
            return Cause.NO_CPU, OtherDevice(
                device=device.id, needed=need.demand.cpu_millis, available=max(0, millis), unit=Unit.CPU_MILLIS
            )
        host = max(0, self._host_room(node) + (need.host_bytes if is_home else 0))
        wanted = need.host_bytes + self._taken_on_host(device, need)
        if wanted > host and (need.host_bytes or self._host.get(node.name)):
            return Cause.NO_HOST_MEMORY, OtherDevice(device=device.id, needed=wanted, available=host, unit=Unit.BYTES)
        return None

    def _taken_on_host(self, device: Device, need: _Need) -> int:
        """What a share on a device that is the node's memory takes of it, beside a start of those there."""
        if device.kind is not DeviceKind.HOST:
            return 0
        return need.rest_bytes + max(0, need.start_bytes - self._start.get(device.id, 0))

    def _host_room(self, node: Node) -> int:
        hosts = [device for device in node.devices if device.kind is DeviceKind.HOST]
        if hosts:
            allowed = sum(max(0, self._allowed[device.id]) for device in hosts)
            taken = sum(self._rest.get(device.id, 0) + self._start.get(device.id, 0) for device in hosts)
        else:
            allowed = self._without_headroom(node.host_memory_bytes) - node.held_host_memory_bytes
            taken = 0
        return allowed - taken - self._host.get(node.name, 0)

    def _room(self, device: Device, need: _Need) -> int:
        """The largest peak that fits beside what lies there, for a replica that starts like this one."""
        larger_start = max(0, self._start.get(device.id, 0) - need.start_bytes)
        return self._allowed[device.id] - self._rest.get(device.id, 0) - larger_start

    def _without_headroom(self, total_bytes: int) -> int:
        kept, of = self._ratio
        return total_bytes + -total_bytes * kept // of


def _nearest(devices: Iterable[OtherDevice]) -> tuple[OtherDevice, ...]:
    return tuple(sorted(devices, key=lambda other: max(0, other.needed - other.available))[:MAX_NAMED_DEVICES])


def _why_not_usable(device: Device, demand: Demand) -> tuple[Cause, str] | None:
    if device.cordoned:
        return Cause.CORDONED, "cordoned"
    if not _takes_shares(device):
        return Cause.UNHEALTHY, device.health.value
    if not _is_of_type(device, demand):
        return Cause.WRONG_TYPE, device.product
    return None


def _takes_shares(device: Device) -> bool:
    working = (DeviceHealth.HEALTHY, DeviceHealth.DEGRADED, DeviceHealth.THROTTLED)
    return device.health in working and not device.cordoned


def _is_of_type(device: Device, demand: Demand) -> bool:
    """A type is whole words of the product's name, in any case; one entry may name several, joined by "|"."""
    wanted = [word.strip() for entry in demand.device_types for word in entry.split("|")]
    return not wanted or any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", device.product, re.IGNORECASE) for word in wanted
    )


def _rest_and_start(one: Placement | Demand) -> tuple[int, int]:
    parts = one.estimate.parts
    rest = sum(part.num_bytes for part in parts if not part.only_while_starting)
    return rest, sum(part.num_bytes for part in parts if part.only_while_starting)
