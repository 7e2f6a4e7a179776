"""A home with the smallest model in it, and a channel that remembers: what a job's tests need of the world."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from shutil import copytree

from serve_app.jobs.messages import Progress, Result, Said, Saved
from serve_app.training.job_channel import Surroundings
from serve_app.training.job_config import JobConfig, read_job_config
from serve_app.training.prepare_job import run_course
from tests.serve_app.training.tiny import tiny_checkpoint

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class RecordingChannel:
    """Is told to stop once it was asked `stop_after` times whether to; every question takes `seconds_per_look`."""

    def __init__(self, *, stop_after: int | None = None, seconds_per_look: float = 0.0) -> None:
        self._left, self._now_s, self._each_s = stop_after, 0.0, seconds_per_look
        self.said: list[Said] = []
        self.logged: list[str] = []

    def say(self, message: Said) -> None:
        self.said.append(message)

    def log(self, line: str) -> None:
        self.logged.append(line)

    def told_to_stop(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0

    def now_s(self) -> float:
        self._now_s += self._each_s
        return self._now_s

    @property
    def saved(self) -> list[Saved]:
        return [message for message in self.said if isinstance(message, Saved)]

    @property
    def progress(self) -> list[Progress]:
        return [message for message in self.said if isinstance(message, Progress)]

    @property
    def result(self) -> dict[str, object]:
        return next(message.value for message in self.said if isinstance(message, Result))


def home_with_tiny(folder: Path) -> Path:
    models = folder / "models" / "tiny"
    copytree(tiny_checkpoint(), models / "checkpoint-4")
    (models / "deployed").symlink_to("checkpoint-4")
    return folder


def config(home: Path, **entries: object) -> JobConfig:
    asked = {"kind": "train", "model": "tiny", "home": str(home), "steps": 6, **entries}
    return read_job_config(json.dumps(asked))


def surroundings(home: Path, *, resume_from: Path | None = None) -> Surroundings:
    return Surroundings(
        folder=home / "job", resume_from=resume_from, traceparent=TRACEPARENT, git_commit="0123456789abcdef"
    )


def run(
    home: Path, *, channel: RecordingChannel | None = None, resume_from: Path | None = None, **entries: object
) -> RecordingChannel:
    """Runs one job in this process; the channel says what came of it."""
    channel = channel or RecordingChannel()
    run_course(config(home, **entries), surroundings(home, resume_from=resume_from), channel)
    return channel


def digests(checkpoint: Path) -> dict[str, str]:
    """Of all files but the manifest, which holds a time."""
    names = (path for path in checkpoint.iterdir() if path.name != "headroom_manifest.json")
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in names}
