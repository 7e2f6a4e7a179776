"""A fleet that stands on paper, for the parts of the controller that only read it."""

from __future__ import annotations

from dataclasses import replace

from placement.inventory import Inventory
from serve_app.config.settings import DeviceChoice
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.ledger import Ledger
from serve_app.fleet.actors import DeviceReading


class PaperFleet(FleetLink):
    """A fleet that stands on paper: nothing is measured on it, and every node lives."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__(headroom=0.2)
        self._paper = inventory

    async def inventory(self, *, choice: DeviceChoice, version: int) -> Inventory:
        return replace(self._paper, version=version)

    async def read(self, inventory: Inventory, ledger: Ledger) -> dict[str, DeviceReading]:
        return {}

    async def node_names(self) -> frozenset[str]:
        return frozenset(node.name for node in self._paper.nodes)
