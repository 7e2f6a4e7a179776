"""Running jobs that give way to models: who runs, who is told to go, and when they have left.

What is decided stands in `giving_way`, and how a job ends in `jobs`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from serve_app.controller.giving_way import RunningJob
from serve_app.controller.guest import Stay
from serve_app.errors import HeadroomError
from serve_app.fleet.process_memory import JOB_MARK
from serve_app.jobs.actor import CALL_S
from serve_app.jobs.run import GRACE_S, STOP_MARGIN_S
from serve_app.jobs.service import JobService
from serve_app.logs import logger

LEAVE_LIMIT_S: Final = GRACE_S + STOP_MARGIN_S + CALL_S
"""Notice, grace and end, then whatever it left behind."""
_LOOK_S: Final = 0.1


class PreemptionDesk:
    def __init__(self, *, stays: Callable[[], Sequence[Stay]], jobs: Callable[[], JobService]) -> None:
        """Both are asked for at each call: guests and jobs are made after whoever makes room."""
        self._stays = stays
        self._jobs = jobs

    def running(self) -> Sequence[RunningJob]:
        now_s = time.monotonic()
        return [
            RunningJob(name=stay.guest.name, priority=stay.guest.priority, held_s=now_s - stay.since_s)
            for stay in self._stays()
            if stay.guest.name.startswith(JOB_MARK)
        ]

    def tell(self, giving_way: Mapping[str, str]) -> None:
        """They go back to their queue, each with its reason; written down when this returns. Raises: sqlite3.Error."""
        for name, reason in giving_way.items():
            _log.warning("a job gives way to a model", job=name, reason=reason)
            self._jobs().preempt(name.removeprefix(JOB_MARK), message=reason)

    async def left(self, names: Collection[str]) -> None:
        """Once their shares are given back. Raises: HeadroomError for those that do not go."""
        until_s = time.monotonic() + LEAVE_LIMIT_S
        while staying := sorted({stay.guest.name for stay in self._stays()} & set(names)):
            if time.monotonic() > until_s:
                raise HeadroomError(
                    f"{', '.join(staying)} did not give back its shares within {LEAVE_LIMIT_S:.0f} s.",
                    expected="A job that gives way ends after its notice of 10 s.",
                    advice="See `headroom jobs show` and the log of its node, then load the model again.",
                )
            await asyncio.sleep(_LOOK_S)


_log = logger("headroom.controller")
