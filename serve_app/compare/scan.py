"""Which checkpoint directories there are to compare, and a stamp of each. Reads names and sizes, no contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from serve_app.compare.finder import Seen
from serve_app.compare.questions import TEST_SET_NAME
from serve_app.training.deployed import read_deployed, step_in_name
from serve_app.training.sources import models_folder

PATTERN: Final = "checkpoint-*"
_MAX_FILES: Final = 10_000


def scan(home: Path, folders: Mapping[str, Path] = MappingProxyType({})) -> tuple[Seen, ...]:
    """Every `checkpoint-*` that is there now in a folder of the home's models or in one of `folders`, by model.

    One that goes meanwhile is left out.
    """
    ours = {folder.name: folder for folder in _directories(models_folder(home)) if not folder.name.startswith(".")}
    every = {**folders, **ours}
    return tuple(seen for model in sorted(every) for seen in _each(model, every[model]))


def _each(model: str, folder: Path) -> Iterator[Seen]:
    deployed = read_deployed(folder)
    for path in _directories(folder):
        stamp = stamp_of(path) if path.match(PATTERN) else None
        if stamp is not None:
            yield Seen(
                model=model,
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
