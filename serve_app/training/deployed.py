"""Which checkpoint of a model serves: the symbolic link `deployed` in the model's folder, changed atomically."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

DEPLOYED_NAME: Final = "deployed"
CHECKPOINT_NAME: Final = re.compile(r"^checkpoint-(\d{1,12})$")


def read_deployed(folder: Path) -> Path | None:
    """The checkpoint directory in `folder` that serves; None when none is named or the named one is gone.

    A link that leads anywhere but to a checkpoint directly in `folder` names nothing.
    """
    try:
        name = str((folder / DEPLOYED_NAME).readlink())
    except OSError:
        return None
    target = folder / name
    return target if CHECKPOINT_NAME.match(name) and target.is_dir() else None


def write_deployed(folder: Path, checkpoint: Path) -> None:
    """Names `checkpoint`, a directory in `folder`, as what serves; a reader sees the old or the new name.

    Raises: ValueError if it is no checkpoint of this folder, OSError if the link cannot be written.
    """
    if checkpoint.parent.resolve() != folder.resolve() or step_in_name(checkpoint) is None or not checkpoint.is_dir():
        raise ValueError(f"{checkpoint} is no checkpoint-<step> directory in {folder}")
    new = folder / f".{DEPLOYED_NAME}-{os.getpid()}"
    new.unlink(missing_ok=True)
    new.symlink_to(checkpoint.name, target_is_directory=True)
    try:
        new.replace(folder / DEPLOYED_NAME)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint directory of the highest step in `folder`; None where there is none."""
    try:
        found = [path for path in folder.iterdir() if step_in_name(path) is not None and path.is_dir()]
    except OSError:
        return None
    return max(found, key=lambda path: step_in_name(path) or 0, default=None)


def step_in_name(checkpoint: Path) -> int | None:
    """The number in `checkpoint-<step>`; None for any other name."""
    named = CHECKPOINT_NAME.match(checkpoint.name)
    return int(named.group(1)) if named else None
