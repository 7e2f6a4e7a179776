"""Loops that go on for as long as their process lives: a turn that fails is told, and the next one comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from serve_app.logs import logger


async def kept(step: Callable[[], Awaitable[object]], *, what: str) -> bool:
    """One turn of a loop; False when it failed, whatever the reason was. The loop must not end for it."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001 - a loop that ended silently would be worse than any of them
        _log.error("a turn failed; the loop goes on", what=what, error=repr(error))
        return False
    return True


class Bell:
    """Ends the rest between two turns. What rings during a turn is heard after it."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def turns(self, step: Callable[[], Awaitable[object]], *, every_s: float, what: str) -> None:
        """For ever: a turn now, one at every ring, and one at the latest `every_s` after the last."""
        while True:
            self._rung.clear()
            await kept(step, what=what)
            try:
                async with asyncio.timeout(every_s):
                    await self._rung.wait()
            except TimeoutError:
                pass


_log = logger("headroom.turns")
