"""From the `source` of a model to the one directory that is opened for it, or to a refusal.

A source is a default model, one checkpoint, or a folder in which checkpoints appear as `checkpoint-<step>`.
Looks at names only; whether the files are good is asked of `serve_app.training.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from serve_app.config.settings import StorageSettings
from serve_app.errors import CheckpointRefused
from serve_app.training.deployed import latest_checkpoint, read_deployed
from serve_app.training.file_rules import CONFIG_NAME

DEFAULT_SCHEME: Final = "default:"
"""`default:<name>` names a model made by our own trainer."""


def models_folder(home: Path) -> Path:
    """Where our own models lie: `<home>/models/<model>/checkpoint-<step>`."""
    return home / "models"


def resolve_source(source: str, *, storage: StorageSettings) -> Path:
    """The real path of the checkpoint that `source` names; no file in it was read yet.

    For `default:<name>` and for a folder this is the checkpoint that serves, else the one of the highest step.
    Raises: CheckpointRefused when it does not exist, is no checkpoint, or lies outside the allowed roots.
    """
    try:
        named = _default(source, storage.home) if source.startswith(DEFAULT_SCHEME) else Path(source).expanduser()
        real = _in_folder(named.resolve(strict=True)).resolve(strict=True)
    except FileNotFoundError as error:
        raise CheckpointRefused(
            f"The checkpoint {source!r} does not exist.",
            expected=f"Expected a directory below {_listed(_roots(storage))}, or default:<name>.",
            advice="Correct the path, or make a default model with `headroom models make`.",
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointRefused(
            f"The checkpoint {source!r} cannot be opened: {error}.",
            expected="Expected the path of a directory that this user may read.",
            advice="Correct the path or its permissions.",
        ) from error
    _check_root(source, real, storage)
    _check_shape(source, real)
    return real


def checkpoint_folders(sources: Iterable[str], *, storage: StorageSettings) -> dict[str, Path]:
    """By name, the folders of checkpoints that sources name, below the allowed roots and not in the home's models.

    A folder's name is that of its model wherever checkpoints are compared. One whose name another model has is left
    out; `folders_left_out` tells them.
    """
    found: dict[str, Path] = {}
    for folder in _outside_folders(sources, storage):
        if not _is_taken(folder, storage):
            found.setdefault(folder.name, folder)
    return found


def folders_left_out(sources: Iterable[str], *, storage: StorageSettings) -> tuple[Path, ...]:
    """Folders of checkpoints that serve, in which nobody looks for new ones, because their name is taken."""
    taken = checkpoint_folders(sources, storage=storage)
    return tuple(one for one in _outside_folders(sources, storage) if taken.get(one.name) != one)


def folder_of(source: str) -> Path | None:
    """The real folder of checkpoints that `source` names; None where it names anything else."""
    if source.startswith(DEFAULT_SCHEME):
        return None
    try:
        real = Path(source).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None
    return real if _in_folder(real) != real else None


def _in_folder(real: Path) -> Path:
    """What serves of a folder of checkpoints; anything else as it is."""
    if (real / CONFIG_NAME).is_file():
        return real
    return read_deployed(real) or latest_checkpoint(real) or real


def _outside_folders(sources: Iterable[str], storage: StorageSettings) -> tuple[Path, ...]:
    models, roots = models_folder(storage.home).expanduser().resolve(), _roots(storage)
    folders = dict.fromkeys(folder for folder in map(folder_of, sources) if folder is not None)
    allowed = (one for one in folders if any(one.is_relative_to(root) for root in roots))
    return tuple(one for one in allowed if one.parent != models)


def _is_taken(folder: Path, storage: StorageSettings) -> bool:
    return (models_folder(storage.home) / folder.name).is_dir()


def _default(source: str, home: Path) -> Path:
    name = source.removeprefix(DEFAULT_SCHEME)
    folder = models_folder(home) / name
    if not name or Path(name).name != name:
        raise CheckpointRefused(
            f"The source {source!r} does not name a default model.",
            expected="Expected default:<name>, such as default:mini.",
            advice="See `headroom models list` for the names.",
        )
    checkpoint = read_deployed(folder) or latest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointRefused(
            f"The default model {name!r} is not made yet: there is no checkpoint in {folder}.",
            expected="Expected a directory checkpoint-<step>.",
            advice=f"Make it with `headroom models make {name}`.",
        )
    return checkpoint


def _check_root(source: str, real: Path, storage: StorageSettings) -> None:
    if not any(real != root and real.is_relative_to(root) for root in _roots(storage)):
        raise CheckpointRefused(
            f"The checkpoint {source!r} lies outside the allowed roots: it is really {real}.",
            expected=f"Expected a directory below {_listed(_roots(storage))}.",
            advice="Move it there, or add its root to `storage.model_roots`.",
        )


def _check_shape(source: str, real: Path) -> None:
    if not real.is_dir():
        raise CheckpointRefused(
            f"The checkpoint {source!r} is a file.",
            expected="Expected the directory that holds config.json and the weights.",
            advice=f"Name the directory {str(real.parent)!r}.",
        )
    if not (real / CONFIG_NAME).is_file():
        raise CheckpointRefused(
            f"{source!r} is not a checkpoint: it has no {CONFIG_NAME}, nor any checkpoint-<step> in it.",
            expected="Expected the directory that holds config.json and the weights, or a folder of such directories.",
            advice="Correct the path.",
        )


def _roots(storage: StorageSettings) -> Sequence[Path]:
    return tuple(root.expanduser().resolve() for root in (*storage.model_roots, models_folder(storage.home)))


def _listed(roots: Sequence[Path]) -> str:
    return " or ".join(str(root) for root in roots)
