"""Room beside the plan: where a job, or the candidate of a rollout, finds a place, by the same solver and headroom.

A guest moves nobody. Idle models may go to sleep for it; what is kept for models to start again is theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from placement.inventory import Device, Inventory
from placement.plan import Placement, Plan
from serve_app.api.wire import ModelAction, ModelAnswer, ModelOutcome
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.bringup_state import Phase
from serve_app.controller.change_spans import Trigger
from serve_app.controller.conditions import USABLE, Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.guest import Guest, Place, Stay
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle, awake
from serve_app.controller.planning import solved, without_ours
from serve_app.controller.room import who_goes
from serve_app.fleet.groups import seats
from serve_app.logs import logger

_LOOK_S: Final = 0.2
_SLEEP_LIMIT_S: Final = 120.0
_BUSY: Final = "Another change of the cluster is under way."


class Guests:
    """Who has room beside the plan. `act` puts models to sleep; `conditions` says what is known of the devices."""

    def __init__(
        self,
        *,
        bringup: Bringup,
        ledger: Ledger,
        fleet: FleetLink,
        lifecycle: Lifecycle,
        conditions: Callable[[], Conditions],
        applier: Applier,
        act: Callable[[ModelAction, str, Trigger], Awaitable[ModelAnswer]],
    ) -> None:
        self._bringup = bringup
        self._ledger = ledger
        self._fleet = fleet
        self._lifecycle = lifecycle
        self._conditions = conditions
        self._applier = applier
        self._act = act
        self._held: dict[str, Stay] = {}
        self._turn = asyncio.Lock()

    @property
    def by_device(self) -> Mapping[str, Mapping[str, int]]:
        """Bytes of every guest, by device."""
        held: dict[str, dict[str, int]] = {}
        for stay in self._held.values():
            for device in stay.devices:
                held.setdefault(device, {})[stay.guest.name] = stay.guest.num_bytes
        return held

    @property
    def stays(self) -> Sequence[Stay]:
        return tuple(self._held.values())

    async def place(self, guest: Guest) -> Place | str:
        """A place, held from now on until `leave`; or the sentence that says why there is none now."""
        async with self._turn:
            if self._busy():
                return _BUSY
            inventory = await self._inventory()
            found = await self._asked(inventory, guest)
            if found.refusals and not await self._made_room(inventory, guest):
                return found.refusals[0].message
            if found.refusals:
                found = await self._asked(inventory, guest)
            if found.refusals:
                return found.refusals[0].message
            if self._busy():  # somebody else may have counted with the same bytes
                return _BUSY
            return self._taken(guest, found.placements[0], inventory)

    async def free_bytes(self, guest: Guest) -> int:
        """What one device that it may lie on has above its headroom now, the fullest of the emptiest it needs."""
        inventory = await self._inventory()
        headroom = self._bringup.settings.fleet.headroom
        conditions, running = self._conditions(), self._bringup.plan.placements
        dressed = conditions.dress_for_guests(inventory, running, headroom=headroom, role=guest.role)
        by_node = [
            sorted((_free_bytes(device, headroom) for device in node.devices), reverse=True) for node in dressed.nodes
        ]
        return max((free[guest.num_devices - 1] for free in by_node if len(free) >= guest.num_devices), default=0)

    def hold(self, guest: Guest, devices: Sequence[str]) -> None:
        """It is there already, as after a restart of the controller."""
        self._held[guest.name] = Stay(guest=guest, devices=tuple(devices), since_s=time.monotonic())

    def leave(self, name: str) -> None:
        self._held.pop(name, None)

    def _busy(self) -> bool:
        return self._bringup.state.phase is not Phase.SERVING or self._applier.occupied

    async def _inventory(self) -> Inventory:
        state, settings = self._bringup.state, self._bringup.settings
        assert state.inventory is not None
        version = state.inventory.version
        inventory = await self._fleet.inventory(choice=settings.fleet.devices, version=version)
        known = {node.name for node in state.inventory.nodes}
        nodes = tuple(node for node in inventory.nodes if node.name in known)  # others have no group yet
        inventory = Inventory(version=version, nodes=nodes)
        return without_ours(inventory, await self._fleet.read(inventory, self._ledger))

    async def _asked(self, inventory: Inventory, guest: Guest, *, gone: frozenset[str] = frozenset()) -> Plan:
        return await asyncio.to_thread(self._plan, inventory, guest, gone)

    def _plan(self, inventory: Inventory, guest: Guest, gone: frozenset[str]) -> Plan:
        headroom = self._bringup.settings.fleet.headroom
        running = [one for one in self._bringup.plan.placements if one.model not in gone]
        dressed = self._conditions().dress_for_guests(inventory, running, headroom=headroom, role=guest.role)
        wanted = [] if guest.name in gone else [guest.demand()]
        return solved(dressed, wanted, headroom=headroom)

    async def _made_room(self, inventory: Inventory, guest: Guest) -> bool:
        """Idle models went to sleep for it; False when that is not enough, or they do not go."""
        settings = self._bringup.settings
        idle = self._lifecycle.may_sleep(
            awake(settings.models, self._lifecycle.resting),
            now_s=time.monotonic(),
            idle_after_s=settings.fleet.idle_after_s,
        )

        def plan_without(gone: frozenset[str]) -> Plan:
            return self._plan(inventory, guest, gone)

        goes = await asyncio.to_thread(who_goes, plan_without, needed={guest.name}, candidates=[one.id for one in idle])
        for model in sorted(goes):
            _log.info("an idle model sleeps for a guest", model=model, guest=guest.name)
            answer = await self._act(ModelAction.SLEEP, model, Trigger.ROOM)
            if answer.outcome in (ModelOutcome.BUSY, ModelOutcome.REFUSED) or not await self._settled():
                return False
        return bool(goes)

    async def _settled(self) -> bool:
        until_s = time.monotonic() + _SLEEP_LIMIT_S
        while self._applier.occupied and time.monotonic() < until_s:  # noqa: ASYNC110 - the applier has no event
            await asyncio.sleep(_LOOK_S)
        return not self._applier.occupied

    def _taken(self, guest: Guest, placement: Placement, inventory: Inventory) -> Place:
        self.hold(guest, placement.devices)
        node = next(node for node in inventory.nodes if node.name == placement.node)
        by_device = {seat.device: seat for seat in seats(node)}
        uuids = {device.id: device.uuid for device in node.devices}
        return Place(
            node=node.name,
            seats=tuple(by_device[device] for device in placement.devices),
            device_uuids=tuple(uuids[device] for device in placement.devices),
        )


def _free_bytes(device: Device, headroom: float) -> int:
    if device.health not in USABLE:
        return 0
    return max(0, int(device.total_bytes * (1 - headroom)) - sum(one.num_bytes for one in device.holdings))


_log = logger("headroom.controller")
