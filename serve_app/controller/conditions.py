"""What is known of devices beside their bytes, and an inventory that says so: health, cordons, drains, leases. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from placement.inventory import Device, DeviceHealth, Holding, HoldingKind, Inventory
from placement.plan import Placement

USABLE = frozenset({DeviceHealth.HEALTHY, DeviceHealth.DEGRADED, DeviceHealth.THROTTLED})
LEASES = "leases"
CORDON = "cordon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """By device id; a device that is not named is healthy, free and without risk.

    On a device that is `cordoned` nothing new is placed and what runs stays; one that is drained has the health
    `draining`, and is emptied.
    """

    health: Mapping[str, DeviceHealth] = field(default_factory=dict)
    cordoned: frozenset[str] = frozenset()
    leased_bytes: Mapping[str, int] = field(default_factory=dict)
    risk_permille: Mapping[str, int] = field(default_factory=dict)

    def dress(self, inventory: Inventory, running: Iterable[Placement], *, headroom: float) -> Inventory:
        """The inventory with what is known of its devices; `running` are the placements that may stay."""
        placed = tuple(running)
        nodes = tuple(
            replace(node, devices=tuple(self._dressed(device, placed, headroom) for device in node.devices))
            for node in inventory.nodes
        )
        return replace(inventory, nodes=nodes)

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
        holdings = [holding for holding in device.holdings if holding.kind is not HoldingKind.LEASED]
        if leased:
            holdings.append(Holding(holder=LEASES, kind=HoldingKind.LEASED, num_bytes=leased))
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


def _room_of(device: Device, running: tuple[Placement, ...]) -> int:
    """Bytes that what runs on the device needs: all at rest, and the largest start beside it."""
    estimates = [one.estimate for one in running if device.id in one.devices]
    above = max((one.peak_bytes - one.rest_bytes for one in estimates), default=0)
    return sum(one.rest_bytes for one in estimates) + above
