"""Where requests of one replica wait while its weights change: in order, bounded in number and in time.

Counts what runs, so that it can say when nothing does. Knows nothing of HTTP nor of weights; what happens when nobody
opens in time is its owner's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from typing import Final

MOST_WAITING: Final = 1024
LONGEST_WAIT_S: Final = 30.0


class GateRefused(Exception):
    """No place to wait, or waited too long. `retry_after_s` is when asking again may help."""

    def __init__(self, reason: str, *, retry_after_s: int) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Gate:
    """Open at first. One event loop only."""

    def __init__(self, *, most_waiting: int = MOST_WAITING, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self.num_running = 0
        self.is_open = True
        self._most_waiting = most_waiting
        self._longest_wait_s = longest_wait_s
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Around one run: enters at once where the gate is open, else when it opens.

        Raises: GateRefused.
        """
        if self.is_open:
            self._begin()
        else:
            await self._wait()
        try:
            yield
        finally:
            self._end()

    def close(self, *, deadline_s: float, on_overdue: Callable[[], None]) -> None:
        """What runs goes on, what comes waits. `on_overdue` is called when the gate is not open after `deadline_s`.

        Closing what is closed sets the deadline anew.
        """
        self._forget_deadline()
        self.is_open = False
        self._deadline = asyncio.get_running_loop().call_later(deadline_s, on_overdue)

    def open(self) -> None:
        """Everybody who waits runs, first come first."""
        self._forget_deadline()
        self.is_open = True
        for place in self._taken_places():
            self._begin()  # counted now: a gate that is closed again at once must not look drained
            place.set_result(None)

    def turn_away(self, reason: str) -> None:
        """Everybody who waits is refused; the gate stays as it is."""
        for place in self._taken_places():
            place.set_exception(GateRefused(reason, retry_after_s=1))

    async def drained(self) -> None:
        """Returns when nothing runs."""
        await self._idle.wait()

    async def _wait(self) -> None:
        if len(self._waiting) >= self._most_waiting:
            raise self._refused(f"{self._most_waiting} requests wait already")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        try:
            async with asyncio.timeout(self._longest_wait_s):
                await place
        except TimeoutError as error:
            self._give_up(place)
            raise self._refused(f"this one has waited {self._longest_wait_s:g} s") from error
        except asyncio.CancelledError:
            self._give_up(place)
            raise

    def _give_up(self, place: asyncio.Future[None]) -> None:
        """A place that was called up in the same turn of the loop counts as running already."""
        self._waiting.pop(place, None)
        if place.done() and not place.cancelled() and place.exception() is None:
            self._end()

    def _refused(self, why: str) -> GateRefused:
        left_s = self._deadline.when() - asyncio.get_running_loop().time() if self._deadline is not None else 0.0
        return GateRefused(
            f"The weights of this model are changing, and {why}.", retry_after_s=max(1, math.ceil(left_s))
        )

    def _taken_places(self) -> list[asyncio.Future[None]]:
        """All who still wait, in order; nobody waits afterwards."""
        places = [place for place in self._waiting if not place.done()]
        self._waiting.clear()
        return places

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _begin(self) -> None:
        self.num_running += 1
        self._idle.clear()

    def _end(self) -> None:
        self.num_running -= 1
        if not self.num_running:
            self._idle.set()
