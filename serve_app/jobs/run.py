"""One attempt of one job while it lives: what was told last, and who may end it. Knows neither queue nor store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from serve_app.errors import HeadroomError
from serve_app.jobs.job import Ending, JobReason
from serve_app.jobs.messages import Progress, Said
from serve_app.jobs.ports import Ended, Handle, Live
from serve_app.logs import logger
from tracing.job_spans import OpenSpan

GRACE_S: Final = 10.0
STOP_MARGIN_S: Final = 20.0
"""Beyond the grace: how long a machine may take to say that a program is gone, before it counts as lost."""
log = logger("jobs")


@dataclass(slots=True)
class Run:
    """`lost` is set to the reason once nobody waits for its machine any more."""

    span: OpenSpan
    handle: Handle | None = None
    live: Live = field(default_factory=Live)
    lost: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def give_up(self, message: str) -> None:
        if not self.lost.done():
            self.lost.set_result(message)

    async def stop(self) -> None:
        """Asks the program to end. If its machine does not manage that in time, it is given up."""
        assert self.handle is not None
        try:
            async with asyncio.timeout(GRACE_S + STOP_MARGIN_S):
                await self.handle.stop(grace_s=GRACE_S)
        except (TimeoutError, HeadroomError) as error:
            log.warning("a job's program could not be stopped", error=repr(error))
            self.give_up(f"Its machine did not end the program within {GRACE_S + STOP_MARGIN_S:.0f} s.")

    async def said(self) -> AsyncIterator[Said | Ended]:
        """All events, `Ended` at the end in any case: of a lost machine, this says so."""
        assert self.handle is not None
        events = self.handle.events()
        try:
            while True:
                event = await self._next(events)
                if isinstance(event, Progress):
                    self.live = Live(step=event.step, num_steps=event.num_steps, metrics=event.metrics)
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                with contextlib.suppress(HeadroomError):
                    await close()

    async def _next(self, events: AsyncIterator[Said | Ended]) -> Said | Ended:
        coming = asyncio.ensure_future(anext(events, None))
        try:
            either: set[asyncio.Future[Any]] = {coming, self.lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            event = coming.result() if coming.done() else None
        except HeadroomError as error:
            return lost(str(error))
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.wait({coming})
        if event is not None:
            return event
        return lost(self.lost.result() if self.lost.done() else "Its machine ended without a word.")


def lost(message: str) -> Ended:
    return Ended(ending=Ending(reason=JobReason.NODE_LOST, message=message))
