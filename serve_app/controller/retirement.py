"""The end of slots: who holds one is told to drain, and the slot is gone once its bytes are back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from serve_app.controller.claims import Slot
from serve_app.controller.ledger import Ledger
from serve_app.controller.store import Store
from serve_app.errors import EngineStartFailed

_LIMIT_S: Final = 180.0
_LOOK_S: Final = 0.2
OnEnd = Callable[[str, float, bool], None]
"""Model of one engine, seconds since it was told to end, and whether it did."""


class Retirement:
    """`publish` tells gateways who serves no more, `on_end` hears of every engine that was told to end."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: Store,
        publish: Callable[[], None],
        on_end: OnEnd,
        limit_s: float = _LIMIT_S,
        look_s: float = _LOOK_S,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._publish = publish
        self._on_end = on_end
        self._limit_s = limit_s
        self._look_s = look_s

    async def retired(self, slots: Iterable[Slot]) -> None:
        """Tell whoever holds these slots to drain, and wait until they hold nothing any more.

        Raises: EngineStartFailed when one does not end in time.
        """
        waiting = self._told([slot for slot in slots if slot.name in self._ledger.slots])
        self._publish()
        began_s = time.monotonic()
        while waiting:
            passed_s = time.monotonic() - began_s
            gone = [slot for slot in waiting if slot.name not in self._ledger.slots]
            waiting = [slot for slot in waiting if slot not in gone]
            self._tell(gone, passed_s, has_ended=True)
            if waiting and passed_s > self._limit_s:
                self._tell(waiting, passed_s, has_ended=False)
                left = ", ".join(slot.name for slot in waiting)
                raise EngineStartFailed(f"{left} did not end within {self._limit_s:.0f} s.")
            if waiting:
                await asyncio.sleep(self._look_s)

    def _told(self, slots: Iterable[Slot]) -> list[Slot]:
        """Those of `slots` that somebody holds; the others are gone at once."""
        held = []
        for slot in slots:
            tenure = self._ledger.retire(slot.name)
            if tenure is not None:
                self._store.save_tenure(tenure)
                held.append(slot)
        return held

    def _tell(self, slots: Iterable[Slot], passed_s: float, *, has_ended: bool) -> None:
        for slot in slots:
            self._on_end(slot.model, passed_s, has_ended)
