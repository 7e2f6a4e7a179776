"""What wardens measure of every device, again and again: who holds how much, and whether it is where it should be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from serve_app.controller import views
from serve_app.controller.bringup import Bringup
from serve_app.controller.claims import SlotState
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.ledger import Ledger
from serve_app.fleet.actors import DeviceReading
from serve_app.logs import logger
from serve_app.turns import kept

READ_S: Final = 5.0


class DeviceReadings:
    """`measured` hears each reading, `lost` of a replica that runs elsewhere than planned."""

    def __init__(
        self,
        *,
        bringup: Bringup,
        ledger: Ledger,
        fleet: FleetLink,
        measured: Callable[[Mapping[str, DeviceReading]], Awaitable[None]],
        lost: Callable[[str, int], None],
    ) -> None:
        self._bringup = bringup
        self._ledger = ledger
        self._fleet = fleet
        self._measured = measured
        self._lost = lost
        self._steady: dict[str, int] = {}
        self.latest: Mapping[str, DeviceReading] = {}
        """By device id."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(READ_S)
            await kept(self.read, what="measuring devices")

    async def read(self) -> None:
        """Now, besides the turns. Does nothing before there is a fleet."""
        inventory = self._bringup.state.inventory
        if inventory is None:
            return
        self.latest = await self._fleet.read(inventory, self._ledger)
        await self._measured(self.latest)
        self._fence_mismatches()
        self._record_steady()

    def _fence_mismatches(self) -> None:
        """What is planned is what runs: a replica measured on another device is stopped."""
        for slot, uuid in views.misplaced(self._ledger, self.latest):
            _log.error("replica runs on another device than planned", slot=slot.slot, found=uuid)
            self._lost(slot.slot, slot.epoch)

    def _record_steady(self) -> None:
        """Once all planned replicas serve, the most each was seen to hold is what the next plan should count."""
        tenures = self._ledger.tenures
        if any(name not in tenures or tenures[name].state is not SlotState.READY for name in self._ledger.slots):
            return
        for tenure in tenures.values():
            slot = self._ledger.slots[tenure.slot]
            reading = self.latest.get(slot.seats[0].device)
            rest_bytes = reading.shares.get(tenure.marker) if reading else None
            if rest_bytes and rest_bytes > self._steady.get(tenure.marker, 0):
                self._steady[tenure.marker] = rest_bytes
                self._bringup.record(slot, tenure, rest_bytes=rest_bytes)


_log = logger("headroom.controller")
