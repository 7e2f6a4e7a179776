"""`status/settings_review.json`: once a week, what each value of the reinforcement settings was worth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serve_app.compare.json_file import write_json
from serve_app.jobs.service import JobService
from serve_app.jobs.settings_review import DAY_S, WEEK_DAYS, settings_review
from serve_app.logs import logger
from serve_app.turns import kept

FILE_NAME: Final = "settings_review.json"
_LOOK_S: Final = 3600.0


class WeeklyReview:
    """`clock` is the wall clock. The file's own time says when the last review was, also over a restart."""

    def __init__(self, folder: Path, *, jobs: JobService, clock: Callable[[], float]) -> None:
        self._path = folder / FILE_NAME
        self._jobs = jobs
        self._clock = clock

    async def run(self) -> None:
        while True:
            await kept(self.turn, what="the weekly review of settings")
            await asyncio.sleep(_LOOK_S)

    async def turn(self) -> None:
        """Raises: OSError."""
        now_s = self._clock()
        if self._path.exists() and 0 <= now_s - self._path.stat().st_mtime < WEEK_DAYS * DAY_S:
            return
        found = settings_review(self._jobs, days=WEEK_DAYS, unix_s=now_s)
        await asyncio.to_thread(write_json, self._path, found)
        _log.info("settings reviewed", num_runs=found["num_runs"], advice=found["advice"])


_log = logger("headroom.learning")
