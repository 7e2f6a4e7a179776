"""How a trainer's job and the one that started it hear each other: messages on stdout, SIGTERM in return.

The only file of the trainer that touches stdout, signals, the environment and the clock.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from serve_app.jobs.messages import FOLDER_VARIABLE, RESUME_VARIABLE, Said, line_of

GIT_TIMEOUT_S: Final = 5.0


class Channel(Protocol):
    """What a job's loop needs of the world."""

    def say(self, message: Said) -> None: ...
    def log(self, line: str) -> None: ...
    def told_to_stop(self) -> bool: ...
    def now_s(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The environment of a job. `folder` is its own; `resume_from` the checkpoint to go on from, None when new."""

    folder: Path
    resume_from: Path | None
    traceparent: str | None
    git_commit: str | None


class ProcessChannel:
    """The channel of a real process. SIGTERM is remembered from its making on."""

    def __init__(self) -> None:
        self._stop = False
        signal.signal(signal.SIGTERM, self._told)

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def say(self, message: Said) -> None:
        print(line_of(message), flush=True)  # noqa: T201  # stdout is the channel

    def log(self, line: str) -> None:
        print(line, flush=True)  # noqa: T201  # a line without the mark is the program's own log

    def told_to_stop(self) -> bool:
        return self._stop

    def now_s(self) -> float:
        return time.monotonic()


def read_surroundings() -> Surroundings:
    """Without a folder of its own a job keeps its state below the working directory."""
    resume = os.environ.get(RESUME_VARIABLE)
    return Surroundings(
        folder=Path(os.environ.get(FOLDER_VARIABLE) or "job"),
        resume_from=Path(resume) if resume else None,
        traceparent=os.environ.get("TRACEPARENT"),
        git_commit=_git_commit(),
    )


def leave_quietly() -> None:
    """After nobody reads any more: Python would complain again when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _git_commit() -> str | None:
    """The commit of this code; None where it does not lie in a git checkout."""
    command = ("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD")
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True)  # noqa: S603  # a fixed command
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
