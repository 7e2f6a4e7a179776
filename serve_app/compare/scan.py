"""Which checkpoint directories lie below the home's models, and a stamp of each. Reads names and sizes, no contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from serve_app.compare.finder import Seen
from serve_app.compare.questions import TEST_SET_NAME
from serve_app.training.deployed import read_deployed, step_in_name
from serve_app.training.sources import models_folder

PATTERN: Final = "checkpoint-*"
_MAX_FILES: Final = 10_000


def scan(home: Path) -> tuple[Seen, ...]:
    """Every `models/<model>/checkpoint-*` that is there now; one that goes meanwhile is left out."""
    return tuple(_each(models_folder(home)))


def _each(models: Path) -> Iterator[Seen]:
    for folder in _directories(models):
        if folder.name.startswith("."):
            continue
        deployed = read_deployed(folder)
        for path in _directories(folder):
            stamp = stamp_of(path) if path.match(PATTERN) else None
            if stamp is not None:
                yield Seen(
                    model=folder.name,
                    path=str(path),
                    stamp=stamp,
                    step_in_name=step_in_name(path) or 0,
                    deployed=path == deployed,
                )


def stamp_of(checkpoint: Path) -> str | None:
    """Digest over name, size, time of change and inode of each file, and of the model's test set; None when it is gone.

    A directory of more than 10,000 files is stamped by the first of them: it is refused for that anyway.
    """
    whole = hashlib.sha256()
    try:
        files = sorted(path for path in checkpoint.rglob("*"))[:_MAX_FILES]
        for path in (checkpoint, *files):
            whole.update(_facts(path, checkpoint))
    except OSError:  # it is being written, replaced or removed just now: the next scan sees what became of it
        return None
    test_set = checkpoint.parent / TEST_SET_NAME
    whole.update(_facts(test_set, checkpoint.parent) if test_set.is_file() else b"")
    return whole.hexdigest()[:16]


def _facts(path: Path, below: Path) -> bytes:
    told = path.lstat()
    when = 0 if path.is_dir() else told.st_mtime_ns
    return f"{path.relative_to(below)} {told.st_size} {when} {told.st_ino}\n".encode(errors="surrogateescape")


def _directories(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
