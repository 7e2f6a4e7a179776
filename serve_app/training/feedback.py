"""What the scheduled tests found wrong, kept per model in a bounded file, for the next job's curriculum.

One JSON line per test run and cell (kind and difficulty): counts only. No question, no answer and no subject is
kept, because they are of the test set, which must never be trained on.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.training.curriculum import Cell, Tally
from serve_app.training.tasks import Task, TaskKind, difficulty

MOST_LINES: Final = 2_000
"""The newest are kept: about sixty test runs."""
LONGEST_LINE: Final = 4_096


class FeedbackLine(BaseModel):
    """How often one cell was asked, and answered wrong, in one test run of one weights version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tested_at: datetime
    weights_version: Annotated[str, Field(max_length=64)]
    kind: TaskKind
    difficulty: Annotated[int, Field(ge=1, le=100)]
    num_asked: Annotated[int, Field(ge=1)]
    num_failed: Annotated[int, Field(ge=0)]


def feedback_path(home: Path, model: str) -> Path:
    return home / "feedback" / f"{model}.jsonl"


def count_failures(graded: Iterable[tuple[Task, bool]]) -> tuple[Tally, ...]:
    """One tally per cell that was asked, in a fixed order; True means right."""
    asked, failed = Counter[Cell](), Counter[Cell]()
    for task, right in graded:
        cell = (task.kind, difficulty(task))
        asked[cell] += 1
        failed[cell] += not right
    return tuple(
        Tally(kind=kind, difficulty=level, num_asked=asked[kind, level], num_failed=failed[kind, level])
        for kind, level in sorted(asked)
    )


def add_feedback(path: Path, tallies: Iterable[Tally], *, weights_version: str, tested_at: datetime) -> None:
    """Appends one test run and forgets the oldest lines past `MOST_LINES`; a reader sees the old file or the new.

    Raises: OSError.
    """
    new = [
        FeedbackLine(
            tested_at=tested_at,
            weights_version=weights_version,
            kind=tally.kind,
            difficulty=tally.difficulty,
            num_asked=tally.num_asked,
            num_failed=tally.num_failed,
        ).model_dump_json()
        for tally in tallies
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [*(line.model_dump_json() for line in read_feedback(path)), *new][-MOST_LINES:]
        partial = path.with_name(f".{path.name}-{os.getpid()}")
        partial.write_text("".join(f"{line}\n" for line in lines))
        partial.replace(path)


def read_feedback(path: Path) -> tuple[FeedbackLine, ...]:
    """The newest `MOST_LINES`; a line that cannot be read counts as none, the file informs and decides nothing alone.

    Raises: OSError, but not for a file that is not there.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_LINES * LONGEST_LINE))
            raw = file.read().splitlines()[-MOST_LINES:]
    except FileNotFoundError:
        return ()
    return tuple(line for one in raw if (line := _line(one)) is not None)


def tallies_since(lines: Iterable[FeedbackLine], since: datetime) -> tuple[Tally, ...]:
    """What `curriculum.weigh` takes, of test runs from `since` on."""
    return tuple(
        Tally(kind=line.kind, difficulty=line.difficulty, num_asked=line.num_asked, num_failed=line.num_failed)
        for line in lines
        if line.tested_at >= since
    )


def _line(raw: bytes) -> FeedbackLine | None:
    try:
        return FeedbackLine.model_validate_json(raw)
    except ValidationError:
        return None
