"""The pooled share of leases in Ray's own books: a few actors per device that hold bytes and do nothing.

Ten thousand leases are not ten thousand actors: `leases.pool` says how much the device's share must hold.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any, Final

import ray

from serve_app.errors import FleetUnready
from serve_app.fleet.groups import Seat, hold_share
from serve_app.logs import logger

_READY_S: Final = 12.0
"""A new actor is a new process, which takes seconds on a busy machine."""
_MAX_CHUNKS: Final = 3
"""Each chunk is a process; beyond so many they are joined into one."""


class RayShare:
    """`seat_of` finds the place of a device, by its UUID, in its node's fleet group; None when it has none now."""

    def __init__(self, seat_of: Callable[[str], Seat | None]) -> None:
        self._seat_of = seat_of
        self._chunks: dict[str, list[tuple[Any, int]]] = {}
        self._numbers = itertools.count()

    async def resize(self, device: str, num_bytes: int) -> bool:
        chunks = self._chunks.setdefault(device, [])
        held = sum(size for _, size in chunks)
        if num_bytes > held:
            return await self._grow(device, num_bytes - held)
        while chunks and held - chunks[-1][1] >= num_bytes:
            handle, size = chunks.pop()
            held -= size
            ray.kill(handle)
        if held > num_bytes:
            return await self._rejoin(device, num_bytes)
        return True

    async def _grow(self, device: str, more_bytes: int) -> bool:
        chunks = self._chunks[device]
        if len(chunks) >= _MAX_CHUNKS:
            return await self._rejoin(device, sum(size for _, size in chunks) + more_bytes)
        handle = await self._held(device, more_bytes)
        if handle is not None:
            chunks.append((handle, more_bytes))
        return handle is not None

    async def _rejoin(self, device: str, num_bytes: int) -> bool:
        """One chunk in place of all. Between the two Ray does not know of the share; the ledger does all the time."""
        for handle, _ in self._chunks[device]:
            ray.kill(handle)
        self._chunks[device] = []
        if num_bytes == 0:
            return True
        handle = await self._held(device, num_bytes)
        if handle is None:
            _log.error("the share of leases could not be taken again", device=device, bytes=num_bytes)
            return False
        self._chunks[device].append((handle, num_bytes))
        return True

    async def _held(self, device: str, num_bytes: int) -> Any | None:
        seat = self._seat_of(device)
        if seat is None:
            return None
        name = f"headroom-lease-{device}-{os.getpid()}-{next(self._numbers)}"
        try:
            handle = await asyncio.to_thread(hold_share, seat, num_bytes=num_bytes, name=name)
        except (FleetUnready, ValueError, ray.exceptions.RayError) as error:
            _log.warning("the share of leases does not grow", device=device, bytes=num_bytes, error=repr(error))
            return None
        try:
            await asyncio.wait_for(asyncio.wrap_future(handle.ping.remote().future()), _READY_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            _log.warning("Ray does not give the share of leases", device=device, bytes=num_bytes, error=repr(error))
            ray.kill(handle)
            return None
        return handle


_log = logger("headroom.leases")
