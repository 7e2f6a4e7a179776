"""`status/training_status.json` follows the jobs: made anew soon after one has changed, and while one runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from serve_app.jobs.service import JobService, JobView
from serve_app.jobs.wire import shown
from serve_app.rollout.status_files import write_training_status
from serve_app.turns import kept

MOST_JOBS: Final = 100
"""The newest."""
FIGURES: Final = ("loss", "reward_average", "entropy", "test_accuracy")
_NOT_SOONER_S: Final = 1.0
_PROGRESS_S: Final = 10.0
_FIELDS: Final = (
    *("id", "kind", "model", "state", "reason", "message", "priority", "node", "attempt", "step", "num_steps"),
    *("checkpoint", "weights_version", "submitted", "started", "ended", "trace_id"),
)


class TrainingStatus:
    """`clock` is the wall clock."""

    def __init__(self, folder: Path, *, jobs: Callable[[], JobService], clock: Callable[[], float]) -> None:
        self._folder = folder
        self._jobs = jobs
        self._clock = clock
        self._changed = asyncio.Event()
        self._changed.set()
        self._runs = False
        """Whether a job ran when the file was written last."""

    def changed(self) -> None:
        """A job is another than before. Does not block: changes that come together are written together."""
        self._changed.set()

    async def run(self) -> None:
        while True:
            await kept(self.turn, what="the file of jobs")
            await asyncio.sleep(_NOT_SOONER_S)
            try:
                async with asyncio.timeout(_PROGRESS_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def turn(self) -> None:
        """Writes where something changed, or a job runs and goes on. Raises: OSError, and then it is still due."""
        if not (self._changed.is_set() or self._runs):
            return
        self._changed.clear()
        views, _ = self._jobs().page(limit=MOST_JOBS)
        self._runs = any(view.live is not None for view in views)
        try:
            entries = [_entry(view) for view in views]
            await asyncio.to_thread(write_training_status, self._folder, entries, at_unix_s=self._clock())
        except OSError:
            self._changed.set()
            raise


def _entry(view: JobView) -> dict[str, Any]:
    whole = shown(view)
    metrics = whole["metrics"]
    return {name: whole[name] for name in _FIELDS} | {name: metrics.get(name) for name in FIGURES}
