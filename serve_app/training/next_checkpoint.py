"""Puts a job's checkpoint into its model's folder under the next free step.

A checkpoint never replaces another: where the step is taken by other weights, the next free number is used, in the
directory's name, the manifest and trainer_state.json alike. The very same weights are left as they are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from serve_app.errors import CheckpointRefused
from serve_app.training.checkpoints import read_manifest
from serve_app.training.folder_lock import locked
from serve_app.training.manifest import FileEntry, weights_version
from serve_app.training.writer import Origin, clear_partial, write_checkpoint

MOST_TAKEN: Final = 10_000
"""How many numbers are tried; a folder with more in a row is not ours."""


def put_checkpoint(
    folder: Path, origin: Origin, *, contents: Callable[[int], Mapping[str, bytes]], on_wait: Callable[[], None]
) -> tuple[Path, str]:
    """The checkpoint's directory and weights version; `contents` gives the files of a step.

    Raises: OSError (a full disk among them), CheckpointRefused when no number is free.
    """
    with locked(folder, on_wait=on_wait):
        clear_partial(folder)
        for step in itertools.islice(itertools.count(origin.step), MOST_TAKEN):
            files, target = contents(step), folder / f"checkpoint-{step}"
            version = version_of(files)
            if not target.exists():
                placed = dataclasses.replace(origin, step=step)
                return write_checkpoint(folder, placed, fill=partial(_fill, files)), version
            if _version_there(target) == version:
                return target, version
    raise CheckpointRefused(
        f"No step is free in {folder}: {MOST_TAKEN} numbers from {origin.step} on are taken.",
        expected="Expected a folder of one model's checkpoints.",
        advice="Archive old checkpoints, or train a model of another name.",
    )


def version_of(files: Mapping[str, bytes]) -> str:
    """The weights version a checkpoint of these files has."""
    return weights_version(
        {name: FileEntry(bytes=len(content), sha256=sha256(content).hexdigest()) for name, content in files.items()}
    )


def _version_there(checkpoint: Path) -> str | None:
    try:
        manifest = read_manifest(checkpoint)
    except (CheckpointRefused, OSError):
        return None
    return manifest.weights_version if manifest is not None else None


def _fill(files: Mapping[str, bytes], directory: Path) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
