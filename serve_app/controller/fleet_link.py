"""The controller's hold on the fleet: groups, wardens, readings and reaping, off the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from placement.inventory import Inventory
from serve_app.config.settings import DeviceChoice
from serve_app.controller.claims import Slot, SlotState
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.fleet.actors import DeviceReading, ShareProcesses
from serve_app.fleet.cluster import ClusterNode, live_nodes, read_inventory
from serve_app.fleet.groups import ensure_fleet_group, ensure_warden, find_group, seats
from serve_app.fleet.names import fleet_group_name
from serve_app.fleet.probe import ProbeResult
from serve_app.fleet.process_memory import ProcessKey
from serve_app.fleet.watches import Watches

_READ_TIMEOUT_S = 3.0


class FleetLink:
    def __init__(self, *, headroom: float) -> None:
        self._headroom = headroom
        self._wardens: dict[str, Any] = {}
        self.watches = Watches()
        self._nodes: dict[str, ClusterNode] = {}

    async def node_names(self) -> frozenset[str]:
        return frozenset(node.name for node in await asyncio.to_thread(live_nodes))

    async def inventory(self, *, choice: DeviceChoice, version: int) -> Inventory:
        nodes = await asyncio.to_thread(live_nodes)
        self._nodes = {node.name: node for node in nodes}
        return await asyncio.to_thread(read_inventory, nodes, choice=choice, version=version)

    async def is_new(self, inventory: Inventory) -> bool:
        """A fleet group is missing: this Ray cluster is new, and no tenure of an earlier one lives.

        To be asked before `prepare`, which makes the groups and may end half done.
        """
        groups = [fleet_group_name(node.name) for node in inventory.nodes]
        return any([await asyncio.to_thread(find_group, group) is None for group in groups])

    async def prepare(self, inventory: Inventory) -> None:
        """Fleet groups and wardens for every node of the inventory. Raises FleetUnready."""
        if not self._nodes:
            self._nodes = {node.name: node for node in await asyncio.to_thread(live_nodes)}
        for node in inventory.nodes:
            selector = self._nodes[node.name].selector
            await asyncio.to_thread(ensure_fleet_group, node, selector=selector)
            for seat in seats(node):
                self._wardens[seat.device] = await asyncio.to_thread(ensure_warden, seat, headroom=self._headroom)
            backup = self._wardens[node.devices[0].id]
            await asyncio.to_thread(self.watches.prepare, node, selector=selector, backup=backup)

    def selector(self, node: str) -> dict[str, str]:
        return dict(self._nodes[node].selector)

    def address(self, node: str) -> str:
        """As the other nodes reach it."""
        return self._nodes[node].address

    @property
    def known_nodes(self) -> frozenset[str]:
        """Those that were there when the inventory was read last."""
        return frozenset(self._nodes)

    async def read(self, inventory: Inventory, ledger: Ledger) -> dict[str, DeviceReading]:
        """One reading per device that answered in time; a silent device is missing from the answer."""
        shares = _shares_by_node(ledger)
        pending = {
            device.id: self._wardens[device.id].read.remote(shares.get(device.node, {}))
            for device in inventory.devices
            if device.id in self._wardens
        }
        answers = await asyncio.gather(*(_in_time(reference) for reference in pending.values()))
        return {device: answer for device, answer in zip(pending, answers, strict=True) if answer is not None}

    async def probe(self, device: str, uuid: str, *, timeout_s: float) -> ProbeResult:
        """Try the device. A warden that does not answer is a probe that failed."""
        reference = self._wardens[device].probe.remote(uuid, timeout_s)
        try:
            result: ProbeResult = await asyncio.wait_for(asyncio.wrap_future(reference.future()), timeout_s + 1.0)
        except (TimeoutError, ray.exceptions.RayError) as error:
            return ProbeResult(has_passed=False, reason=f"its warden does not answer ({type(error).__name__})")
        return result

    async def reap(self, slot: Slot, tenure: Tenure) -> tuple[ProcessKey, ...]:
        """End what the dead replica left on the slot's devices; returns what would not go."""
        share = ShareProcesses(process=tenure.process, marker=tenure.marker)
        stubborn: tuple[ProcessKey, ...] = ()
        for seat in slot.seats[:1]:  # all devices of a slot are on one node
            stubborn = await self._wardens[seat.device].reap.remote(share)
        return stubborn


def _shares_by_node(ledger: Ledger) -> dict[str, dict[str, ShareProcesses]]:
    """Every device of a node is asked for all shares of the node: one may be where it was not planned."""
    by_node: dict[str, dict[str, ShareProcesses]] = {}
    for tenure in ledger.tenures.values():
        if tenure.state in (SlotState.STARTING, SlotState.READY, SlotState.DRAINING):
            shares = by_node.setdefault(ledger.slots[tenure.slot].node, {})
            shares[tenure.marker] = ShareProcesses(process=tenure.process, marker=tenure.marker)
    return by_node


async def _in_time(reference: Any) -> DeviceReading | None:
    try:
        answer: DeviceReading = await asyncio.wait_for(asyncio.wrap_future(reference.future()), _READ_TIMEOUT_S)
        return answer
    except (TimeoutError, ray.exceptions.RayError):
        return None
