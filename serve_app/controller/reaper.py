"""The end of a replica: its shares are watched, and nobody gets its slot before its bytes are really back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray

from serve_app.controller.claims import Slot
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.store import Store
from serve_app.controller.turns import Spawn
from serve_app.logs import logger

AGAIN_S: Final = 1.0


class Reaper:
    """`publish` tells the gateways that a replica answers no more."""

    def __init__(
        self, *, ledger: Ledger, store: Store, fleet: FleetLink, publish: Callable[[], None], spawn: Spawn
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._fleet = fleet
        self._publish = publish
        self._spawn = spawn
        self._watched: set[tuple[str, int]] = set()

    def watch(self, slot: str, epoch: int, shares: Sequence[Any]) -> None:
        """From now on the death of one of these actors is the replica's. `shares` is empty before it holds them."""
        if shares and (slot, epoch) not in self._watched:
            self._watched.add((slot, epoch))
            self._spawn(self._until_gone(slot, epoch, shares))

    def lost(self, slot: str, epoch: int) -> None:
        """Whoever holds the slot in this epoch answers no more; does nothing for anybody else."""
        tenure = self._ledger.lost(slot=slot, epoch=epoch)
        if tenure is not None:
            _log.warning("share ended", slot=slot, epoch=epoch)
            self._publish()
            self._spawn(self._reap(tenure))

    async def _until_gone(self, slot: str, epoch: int, shares: Sequence[Any]) -> None:
        held = [asyncio.ensure_future(_gone(share)) for share in shares]
        await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        for waiting in held:
            waiting.cancel()
        self.lost(slot, epoch)

    async def _reap(self, tenure: Tenure) -> None:
        slot = self._ledger.slots[tenure.slot]
        while not await self._is_reaped(slot, tenure):  # noqa: ASYNC110 - it has to be looked for
            await asyncio.sleep(AGAIN_S)
        self._store.drop_tenure(tenure.slot)
        self._ledger.freed(slot=tenure.slot, epoch=tenure.epoch)
        self._watched.discard((tenure.slot, tenure.epoch))

    async def _is_reaped(self, slot: Slot, tenure: Tenure) -> bool:
        try:
            stubborn = await self._fleet.reap(slot, tenure)
        except ray.exceptions.RayError:
            try:
                return slot.node not in await self._fleet.node_names()  # with its node, everything on it is gone
            except (ray.exceptions.RayError, RuntimeError):
                return False
        if stubborn:
            _log.error("processes of a dead replica will not go", slot=tenure.slot, pids=[k.pid for k in stubborn])
        return not stubborn


async def _gone(share: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError, asyncio.CancelledError):
        await share.held.remote()


_log = logger("headroom.controller")
