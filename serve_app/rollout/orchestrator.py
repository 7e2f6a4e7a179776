"""Begins a rollout by itself when comparison finds a better checkpoint, and looks for one it may have missed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.logs import logger
from serve_app.rollout.record import Record
from serve_app.rollout.service import Ask, Refused, RolloutService
from serve_app.rollout.world import Clock
from serve_app.turns import kept

EVERY_S: Final = 600.0
"""Row C4."""
ORCHESTRATOR: Final = "orchestrator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Better:
    """Comparison's verdict: these weights answer better than those that serve, beyond noise."""

    model: str
    version: str


class Orchestrator:
    """`better` gives what is better than what serves now, the best first; `is_enabled` is `rollouts.auto`."""

    def __init__(
        self,
        service: RolloutService,
        *,
        better: Callable[[], Awaitable[Sequence[Better]]],
        is_enabled: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._service = service
        self._better = better
        self._is_enabled = is_enabled
        self._clock = clock

    async def judged(self, verdict: Better) -> Record | Refused | None:
        """For a verdict that was just reached. None: not begun, for it is off or these weights were turned away before.

        Busy is no loss: the next look finds it again.
        """
        if not self._is_enabled() or self._service.was_turned_away(verdict.model, verdict.version):
            return None
        answer = await self._service.begin(Ask(model=verdict.model, by=ORCHESTRATOR, version=verdict.version))
        if isinstance(answer, Refused):
            log.info("rollout not begun", model=verdict.model, version=verdict.version, reason=answer.reason)
        return answer

    async def look(self) -> Record | None:
        """Begins the first that may be."""
        for verdict in await self._better() if self._is_enabled() else ():
            answer = await self.judged(verdict)
            if isinstance(answer, Record):
                return answer
        return None

    async def watch(self) -> None:
        """For ever."""
        while True:
            await kept(self.look, what="looking for better weights")
            await self._clock.sleep(EVERY_S)


log = logger(__name__)
