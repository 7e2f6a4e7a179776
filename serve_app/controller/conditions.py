"""What is known of devices beside their bytes, and inventories that say so: health, cordons, leases, jobs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from placement.inventory import Device, DeviceHealth, Holding, HoldingKind, Inventory, Node
from placement.plan import Placement
from serve_app.fleet.names import INFERENCE

USABLE = frozenset({DeviceHealth.HEALTHY, DeviceHealth.DEGRADED, DeviceHealth.THROTTLED})
LEASES = "leases"
CORDON = "cordon"
MODELS = "models"
_OURS = frozenset({HoldingKind.LEASED, HoldingKind.JOB})


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """By device id; a device that is not named is healthy, free and without risk.

    On a device that is `cordoned` nothing new is placed and what runs stays; one that is drained has the health
    `draining`, and is emptied.
    """

    health: Mapping[str, DeviceHealth] = field(default_factory=dict)
    cordoned: frozenset[str] = frozenset()
    leased_bytes: Mapping[str, int] = field(default_factory=dict)
    guests: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of each device, the bytes of every job there, and of every candidate of a rollout."""
    risk_permille: Mapping[str, int] = field(default_factory=dict)

    def dress(self, inventory: Inventory, running: Iterable[Placement], *, headroom: float) -> Inventory:
        """The inventory for models; `running` are the placements that may stay."""
        placed = tuple(running)
        return self._nodes_dressed(
            inventory, INFERENCE, lambda device: self._dressed(device, placed, headroom), headroom
        )

    def dress_for_guests(
        self, inventory: Inventory, running: Iterable[Placement], *, headroom: float, role: str
    ) -> Inventory:
        """The inventory for what lies beside the plan: what models have, and need to start again, is taken."""
        placed = tuple(running)

        def dressed(device: Device) -> Device:
            bare = self._dressed(device, placed, headroom)
            held = Holding(holder=MODELS, kind=HoldingKind.RESERVED, num_bytes=_room_of(device, placed))
            return replace(bare, holdings=(*bare.holdings, held)) if held.num_bytes else bare

        return self._nodes_dressed(inventory, role, dressed, headroom)

    def _nodes_dressed(
        self, inventory: Inventory, role: str, dressed: Callable[[Device], Device], headroom: float
    ) -> Inventory:
        nodes = (
            replace(node, devices=tuple(_for_role(dressed(device), node, role, headroom) for device in node.devices))
            for node in inventory.nodes
        )
        return replace(inventory, nodes=tuple(nodes))

    def without_guests(self, names: Collection[str]) -> Conditions:
        left = {
            device: {name: size for name, size in guests.items() if name not in names}
            for device, guests in self.guests.items()
        }
        return replace(self, guests=left)

    def unusable(self, device: Device) -> str:
        """Why nothing may lie there; empty when something may. What is known now goes before an older inventory."""
        health = self.health.get(device.id, DeviceHealth.HEALTHY)
        return "" if health in USABLE else health.value

    def _health(self, device: Device) -> DeviceHealth:
        """One that the reader of the inventory found lost stays lost."""
        if device.health is DeviceHealth.LOST:
            return device.health
        return self.health.get(device.id, DeviceHealth.HEALTHY)

    def _dressed(self, device: Device, running: tuple[Placement, ...], headroom: float) -> Device:
        leased = self.leased_bytes.get(device.id, 0)
        holdings = [holding for holding in device.holdings if holding.kind not in _OURS]
        if leased:
            holdings.append(Holding(holder=LEASES, kind=HoldingKind.LEASED, num_bytes=leased))
        guests = self.guests.get(device.id, {})
        holdings += [Holding(holder=one, kind=HoldingKind.JOB, num_bytes=size) for one, size in guests.items()]
        if device.id in self.cordoned:
            taken = sum(holding.num_bytes for holding in holdings) + _room_of(device, running)
            closed = max(0, int(device.total_bytes * (1 - headroom)) - taken)
            holdings.append(Holding(holder=CORDON, kind=HoldingKind.RESERVED, num_bytes=closed))
        return replace(
            device,
            health=self._health(device),
            holdings=tuple(holdings),
            risk_permille=self.risk_permille.get(device.id, 0),
        )


def _for_role(device: Device, node: Node, role: str, headroom: float) -> Device:
    """Closed when the node is for something else; what runs there is not moved by that, nothing new fits."""
    if role in node.roles:
        return device
    closed = max(0, int(device.total_bytes * (1 - headroom)) - sum(one.num_bytes for one in device.holdings))
    whom = " and ".join(sorted(node.roles))
    held = Holding(holder=f"{node.name} is for {whom}", kind=HoldingKind.RESERVED, num_bytes=closed)
    return replace(device, holdings=(*device.holdings, held))


def _room_of(device: Device, running: tuple[Placement, ...]) -> int:
    """Bytes that what runs on the device needs: all at rest, and the largest start beside it."""
    estimates = [one.estimate for one in running if device.id in one.devices]
    above = max((one.peak_bytes - one.rest_bytes for one in estimates), default=0)
    return sum(one.rest_bytes for one in estimates) + above
