"""Which copies lie where at one moment, and whether one more may start: the rule of room between two plans.

The same rule as for a whole plan, held at every moment: bytes at rest of all copies on a device, running or starting,
and the largest start among them stay within its budget; cores and host memory of a node likewise.
"""

from __future__ import annotations

from collections.abc import Iterable

from placement.changes import Copy
from placement.feasible import EMPTY, Load, budget_bytes, node_cpu_millis, node_memory_bytes
from placement.inventory import DeviceKind, Inventory


class Ground:
    """What every moment has in common: budgets, and the copies that never change. Made once, never changed.

    A device that the inventory does not have has no budget.
    """

    def __init__(self, inventory: Inventory, stays: Iterable[Copy], headroom: float) -> None:
        self.budgets = {device.id: budget_bytes(device, headroom) for device in inventory.devices}
        self.free_millis = {node.name: node_cpu_millis(node) for node in inventory.nodes}
        self.free_host_bytes = {node.name: node_memory_bytes(node, headroom) for node in inventory.nodes}
        self.host_devices = {
            node.name: tuple(device.id for device in node.devices if device.kind is DeviceKind.HOST)
            for node in inventory.nodes
        }
        self.loads: dict[str, Load] = {}
        for copy in stays:
            self.free_millis[copy.node] = self.free_millis.get(copy.node, 0) - copy.cpu_millis
            self.free_host_bytes[copy.node] = self.free_host_bytes.get(copy.node, 0) - copy.host_bytes
            for device in copy.devices:
                self.loads[device] = self.loads.get(device, EMPTY).plus(copy.need)


class Occupancy:
    """The ground, and the copies that come and go on it."""

    def __init__(self, ground: Ground, copies: Iterable[Copy] = ()) -> None:
        self._ground = ground
        self._copies: dict[str, list[Copy]] = {}
        """By device, and by node for those that take something of it."""
        for copy in copies:
            self.add(copy)

    def add(self, copy: Copy) -> None:
        for place in _places(copy):
            self._copies.setdefault(place, []).append(copy)

    def remove(self, copy: Copy) -> None:
        for place in _places(copy):
            self._copies[place].remove(copy)

    def admits(self, copy: Copy) -> bool:
        """Whether the copy may start beside all that lies there."""
        return all(self.left_bytes(device, copy.need) >= 0 for device in copy.devices) and self._node_admits(copy)

    def left_bytes(self, device: str, need: Load = EMPTY) -> int:
        """What is left of the device's budget beside all that lies there and `need`; negative when it is too much."""
        return self._ground.budgets.get(device, -1) - self._load(device, need).peak_bytes

    def _load(self, device: str, need: Load) -> Load:
        load = self._ground.loads.get(device, EMPTY)
        rest, start = load.rest_bytes + need.rest_bytes, max(load.start_bytes, need.start_bytes)
        for copy in self._copies.get(device, ()):
            rest, start = rest + copy.need.rest_bytes, max(start, copy.need.start_bytes)
        return Load(rest, start)

    def _node_admits(self, copy: Copy) -> bool:
        """A copy that asks for no cores (no host memory) is not held to them, as in the solver."""
        beside = self._copies.get(copy.node, ())
        millis = self._ground.free_millis.get(copy.node, 0) - sum(other.cpu_millis for other in beside)
        if copy.cpu_millis and copy.cpu_millis > millis:
            return False
        hosts = self._ground.host_devices.get(copy.node, ())
        if not copy.host_bytes and set(hosts).isdisjoint(copy.devices):
            return True
        left = self._ground.free_host_bytes.get(copy.node, 0) - sum(other.host_bytes for other in beside)
        loads = (self._load(device, copy.need if device in copy.devices else EMPTY) for device in hosts)
        return copy.host_bytes <= left - sum(load.peak_bytes for load in loads)


def _places(copy: Copy) -> tuple[str, ...]:
    return (*copy.devices, copy.node) if copy.takes_of_node else copy.devices
