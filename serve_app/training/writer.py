"""Writes checkpoints so that one is there whole or not at all, and clears away what a killed run left.

A checkpoint is written beside its place under a name no reader accepts, flushed to disk, then renamed. Knows
no models: what goes in is the caller's business.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from serve_app.training.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, digest_file, file_name, sealed_text

PARTIAL_PREFIX: Final = ".partial-"
REPLACED_PREFIX: Final = ".replaced-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a checkpoint comes from, as its manifest says it; see `Manifest`."""

    model: str
    step: int
    config_hash: str
    seed: int
    created_at: datetime
    git_commit: str | None = None
    parent: str | None = None
    traceparent: str | None = None


def write_checkpoint(folder: Path, origin: Origin, *, fill: Callable[[Path], None]) -> Path:
    """Makes `folder/checkpoint-<step>`: `fill` writes the files into the directory it is given.

    A checkpoint of the same step is replaced. Whatever goes wrong, nothing half-done is left.
    Raises: OSError (a full disk among them), and whatever `fill` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"checkpoint-{origin.step}"
    partial = folder / f"{PARTIAL_PREFIX}{target.name}-{os.getpid()}"
    try:
        partial.mkdir()
        fill(partial)
        _write_manifest(partial, origin)
        for path in _files(partial):
            _flush(path)
        for path in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
            _flush(path)
        _put_in_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(folder)
    return target


def clear_partial(folder: Path) -> None:
    """Removes what a killed run left in `folder`, and puts back a checkpoint that was just being replaced.

    Only for the holder of the folder's lock: another writer's partial checkpoint looks the same.
    """
    for left in folder.glob(f"{REPLACED_PREFIX}*"):
        target = folder / left.name.removeprefix(REPLACED_PREFIX)
        if target.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.rename(target)
    for left in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def _write_manifest(directory: Path, origin: Origin) -> None:
    files = {file_name(path, directory): digest_file(path) for path in sorted(_files(directory))}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model=origin.model,
        step=origin.step,
        files=files,
        config_hash=origin.config_hash,
        git_commit=origin.git_commit,
        parent=origin.parent,
        seed=origin.seed,
        traceparent=origin.traceparent,
        created_at=origin.created_at,
    )
    (directory / MANIFEST_NAME).write_text(sealed_text(manifest))


def _put_in_place(partial: Path, target: Path) -> None:
    """Directories cannot be exchanged by one portable call; `clear_partial` mends a kill between the two."""
    replaced = target.with_name(REPLACED_PREFIX + target.name)
    if target.exists():
        target.rename(replaced)
    try:
        partial.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
