"""The pooled share of each device: one share for all its leases, which grows before a grant counts.

Ten thousand leases are not ten thousand shares: the ledger divides one per device, held from whoever owns the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

POOL_STEP_BYTES: Final = 256 << 20
RESIZE_TIMEOUT_S: Final = 15.0


class PooledShare(Protocol):
    """Who holds the shares of devices. Sizes are whole shares, not differences."""

    async def resize(self, device: str, num_bytes: int) -> bool:
        """True once the device's share for leases has this size; False, and as before, where there is no room."""
        ...


class InMemoryShare:
    """A holder that owns nothing real: for tests and the standalone server. Refuses beyond `limits`, by device."""

    def __init__(self, limits: dict[str, int]) -> None:
        self.limits = limits
        self.sizes: dict[str, int] = {}

    async def resize(self, device: str, num_bytes: int) -> bool:
        if num_bytes > self.limits.get(device, 0):
            return False
        self.sizes[device] = num_bytes
        return True


class Pools:
    """Sizes as last agreed with the holder, in whole steps, never less than what is leased."""

    def __init__(self, share: PooledShare, *, step_bytes: int = POOL_STEP_BYTES) -> None:
        self._share = share
        self._step_bytes = step_bytes
        self._sizes: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def holds(self, device: str, num_bytes: int) -> bool:
        return num_bytes <= self._sizes.get(device, 0)

    def size(self, device: str) -> int:
        return self._sizes.get(device, 0)

    async def grow(self, device: str, num_bytes: int, *, at_most: int) -> bool:
        """Whether the share holds `num_bytes` now. The last step is cut to `at_most`, the device's room."""
        async with self._locks.setdefault(device, asyncio.Lock()):
            if self.holds(device, num_bytes):
                return True
            size = max(num_bytes, min(self._stepped(num_bytes), at_most))
            return await self._resized(device, size)

    async def shrink(self, device: str, needed_bytes: Callable[[], int]) -> None:
        """Gives back whole steps that are not needed, but one: the next grant should not have to wait.

        The smaller size counts before it is real, so that no grant relies on what is just given back.
        """
        async with self._locks.setdefault(device, asyncio.Lock()):
            num_bytes = needed_bytes()
            size = self._stepped(num_bytes) + (self._step_bytes if num_bytes else 0)
            if size < self._sizes.get(device, 0):
                self._sizes[device] = size
                await self._resized(device, size)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(self._sizes)

    async def _resized(self, device: str, size: int) -> bool:
        try:
            async with asyncio.timeout(RESIZE_TIMEOUT_S):
                done = await self._share.resize(device, size)
        except TimeoutError:
            return False
        if done:
            self._sizes[device] = size
        return done

    def _stepped(self, num_bytes: int) -> int:
        return -(-num_bytes // self._step_bytes) * self._step_bytes
