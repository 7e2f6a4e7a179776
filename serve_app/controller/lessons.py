"""What the scheduled tests failed at, kept for the next job of a model, and what that job's data is weighed by.

Implements nothing of its own: counts are in `training.feedback`, weights in `training.curriculum`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from serve_app.compare.questions import Question
from serve_app.logs import logger
from serve_app.training.curriculum import Tally, weigh
from serve_app.training.feedback import add_feedback, count_failures, feedback_path, read_feedback, tallies_since
from serve_app.training.tasks import held_out_tasks

REMEMBERED_S: Final = 7 * 86_400.0
"""Failures of a week: older ones were of other weights. Longer where tests are rarer than that."""


class Lessons:
    """By the name of a model's folder. `clock` is the wall clock, `test_every_s` the time between two tests."""

    def __init__(self, home: Path, *, test_every_s: Callable[[], float], clock: Callable[[], float]) -> None:
        self._home = home
        self._test_every_s = test_every_s
        self._clock = clock

    def learned(self, folder: str, questions: Sequence[Question], right: Sequence[bool], *, weights: str) -> None:
        """Keeps what a test found of our own tasks; of others nobody knows the kind. A fault is told, not raised."""
        tasks = {(task.prompt, task.answer): task for task in held_out_tasks()}
        pairs = zip(questions, right, strict=False)
        graded = [(task, well) for one, well in pairs if (task := tasks.get((one.prompt, one.answer))) is not None]
        try:
            tested_at = datetime.fromtimestamp(self._clock(), UTC)
            path = feedback_path(self._home, folder)
            add_feedback(path, count_failures(graded), weights_version=weights, tested_at=tested_at)
        except OSError as error:
            _log.error("what a test failed at could not be kept", model=folder, error=str(error))

    def setting(self, folder: str) -> list[dict[str, Any]]:
        """The `curriculum` of a job's configuration; empty where no test was made lately, or none of our own tasks."""
        return [
            {"kind": kind.value, "difficulty": level, "weight": weight}
            for (kind, level), weight in sorted(weigh(self.tallies(folder)).weights.items())
        ]

    def tallies(self, folder: str) -> tuple[Tally, ...]:
        """What weighs on the next job."""
        since_s = self._clock() - max(REMEMBERED_S, 1.5 * self._test_every_s())
        try:
            lines = read_feedback(feedback_path(self._home, folder))
        except OSError as error:
            _log.error("what tests failed at cannot be read", model=folder, error=str(error))
            return ()
        return tallies_since(lines, datetime.fromtimestamp(since_s, UTC))


_log = logger("headroom.learning")
