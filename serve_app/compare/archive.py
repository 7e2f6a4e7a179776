"""Checkpoints as they lie in a home: listed, pinned, moved to the archive and back, verified against a baseline.

Works without a running cluster. Archiving is one rename on one disk, so a checkpoint is here or there, never half.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from serve_app.compare.care import ARCHIVE_AFTER_S, Checkpoint, Key, Why, care
from serve_app.compare.json_file import write_json
from serve_app.errors import CheckpointRefused, HeadroomError
from serve_app.training.checkpoints import read_manifest, step_of, verify_checkpoint
from serve_app.training.deployed import read_deployed
from serve_app.training.sources import models_folder

ARCHIVE_NAME: Final = "archive"
PINS_NAME: Final = "pins.json"
BASELINE_NAME: Final = "checkpoint_baseline.json"
OPERATOR: Final = "operator"
MAX_PIN_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"^checkpoint-[A-Za-z0-9._-]{1,100}$")


class _Pins(BaseModel):
    """Who pins each checkpoint, by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pins: dict[str, tuple[Annotated[str, StringConstraints(min_length=1, max_length=64)], ...]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    checkpoint: Checkpoint
    why: Why
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """`problem` is empty when every byte is as it was."""

    path: Path
    weights_version: str | None
    problem: str


def listed(
    home: Path, *, now_s: float, previous: frozenset[Key] = frozenset(), after_s: float = ARCHIVE_AFTER_S
) -> tuple[Kept, ...]:
    """Every checkpoint in the home's models and what care says of it. Reads no weights."""
    found = {(one.model, one.name): one for one in _checkpoints(home)}
    folders = {model: models_folder(home) / model for model, _ in found}
    serving = {model: read_deployed(folder) for model, folder in folders.items()}
    deployed = frozenset((model, path.name) for model, path in serving.items() if path is not None)
    pinned = frozenset((model, name) for model, folder in folders.items() for name in pins(folder))
    whys = care(found.values(), pinned=pinned, deployed=deployed, previous=previous, now_s=now_s, after_s=after_s)
    order = sorted(found.items(), key=lambda item: (item[1].model, -item[1].step, item[1].name))
    return tuple(
        Kept(checkpoint=one, why=whys[key], path=models_folder(home) / one.model / one.name) for key, one in order
    )


def archive_old(
    home: Path, *, now_s: float, previous: frozenset[Key] = frozenset(), after_s: float = ARCHIVE_AFTER_S
) -> tuple[Path, ...]:
    """Moves what care calls old to the archive; where each lies now. Raises: HeadroomError."""
    kept = listed(home, now_s=now_s, previous=previous, after_s=after_s)
    old = [one for one in kept if one.why is Why.OLD]
    return tuple(archive(home, one.checkpoint.model, one.checkpoint.name) for one in old)


def archive(home: Path, model: str, name: str) -> Path:
    """Moves one checkpoint, with its manifest, to `<home>/archive/<model>/`.

    Raises: HeadroomError when it serves, is pinned, is not there, or something lies in its place already.
    """
    folder = _model_folder(home, model)
    source = folder / _checked_name(name)
    if read_deployed(folder) == source:
        raise HeadroomError(f"{source} serves now.", advice="Roll out another checkpoint first.")
    if name in pins(folder):
        raise HeadroomError(f"{source} is pinned by {', '.join(pins(folder)[name])}.", advice="Unpin it first.")
    return _moved(source, home / ARCHIVE_NAME / model / name)


def restore(home: Path, model: str, name: str) -> Path:
    """The way back. Its bytes are verified first: what was damaged in the archive stays there.

    Raises: CheckpointRefused, HeadroomError.
    """
    folder = _model_folder(home, model)
    source = home / ARCHIVE_NAME / model / _checked_name(name)
    verify_checkpoint(source)
    return _moved(source, folder / name)


def archived(home: Path) -> tuple[Path, ...]:
    return tuple(sorted((home / ARCHIVE_NAME).glob("*/checkpoint-*")))


def pins(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Holders of each pinned checkpoint of a model's folder, by its name.

    Raises: HeadroomError if the file is none of ours: a lost pin is no default.
    """
    path = folder / PINS_NAME
    try:
        if path.stat().st_size > MAX_PIN_BYTES:
            raise ValueError(f"more than {MAX_PIN_BYTES} bytes")
        return _Pins.model_validate_json(path.read_bytes()).pins
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = "another form" if isinstance(error, ValidationError) else str(error)
        raise HeadroomError(
            f"{path} cannot be read: {reason}.", advice="Correct it, or remove it and pin anew."
        ) from error


def pin(home: Path, model: str, name: str, *, by: str = OPERATOR) -> None:
    """A checkpoint may be pinned by several. Raises: HeadroomError when there is none of that name."""
    folder = _model_folder(home, model)
    if not (folder / _checked_name(name)).is_dir():
        raise _not_there(folder / name)
    held = dict(pins(folder))
    held[name] = tuple(sorted({*held.get(name, ()), by}))
    write_json(folder / PINS_NAME, {"pins": held})


def unpin(home: Path, model: str, name: str, *, by: str = OPERATOR) -> bool:
    """Only the pin of `by`; False when it held none."""
    folder = _model_folder(home, model)
    held = dict(pins(folder))
    others = tuple(holder for holder in held.get(name, ()) if holder != by)
    if others == held.get(name, ()):
        return False
    held = {other: holders for other, holders in held.items() if other != name} | ({name: others} if others else {})
    write_json(folder / PINS_NAME, {"pins": held})
    return True


def verify_baseline(home: Path, *, now_s: float) -> tuple[Checked, ...]:
    """Reads every byte of what serves and of what is pinned.

    Digests are held against each manifest, and the weights against what they were when this was first done: a
    checkpoint that was changed together with its manifest is found too.
    """
    path = home / "status" / BASELINE_NAME
    baseline = _read_baseline(path)
    important = [one for one in listed(home, now_s=now_s) if one.why in (Why.PINNED, Why.DEPLOYED)]
    checked = tuple(_checked(one.path, baseline.get(str(one.path.relative_to(home)))) for one in important)
    known = {str(one.path.relative_to(home)): one.weights_version for one in checked if not one.problem}
    write_json(path, {**baseline, **known})
    return checked


def _checked(path: Path, expected: str | None) -> Checked:
    try:
        version = verify_checkpoint(path).weights_version
    except CheckpointRefused as refused:
        return Checked(path=path, weights_version=None, problem=str(refused))
    if expected not in (None, version):
        problem = f"{path} holds weights {version}, and held {expected} when the baseline was taken."
        return Checked(path=path, weights_version=version, problem=problem)
    return Checked(path=path, weights_version=version, problem="")


def _read_baseline(path: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HeadroomError(f"{path} cannot be read: {error}.", advice="Remove it to take a new baseline.") from error
    return {str(name): str(version) for name, version in content.items()} if isinstance(content, dict) else {}


def _checkpoints(home: Path) -> Iterator[Checkpoint]:
    for path in sorted(models_folder(home).glob("*/checkpoint-*")):
        if path.is_symlink() or not path.is_dir() or not _NAME.match(path.name):
            continue
        try:
            manifest = read_manifest(path)
        except (CheckpointRefused, OSError):
            manifest = None
        yield Checkpoint(
            model=path.parent.name,
            name=path.name,
            step=step_of(path) or (manifest.step if manifest else 0),
            weights_version=manifest.weights_version if manifest else None,
            parent=manifest.parent if manifest else None,
            made_at_s=manifest.created_at.timestamp() if manifest else path.stat().st_mtime,
        )


def _moved(source: Path, target: Path) -> Path:
    if not source.is_dir() or source.is_symlink():
        raise _not_there(source)
    if target.exists():
        raise HeadroomError(f"{target} is there already.", advice="Move one of the two away by hand.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        what = "they lie on two disks" if error.errno == errno.EXDEV else error.strerror or str(error)
        raise HeadroomError(f"{source} cannot be moved to {target}: {what}.") from error
    for folder in (target.parent, source.parent):
        _flush(folder)
    return target


def _model_folder(home: Path, model: str) -> Path:
    folder = models_folder(home) / model
    if Path(model).name != model or not model or model.startswith(".") or not folder.is_dir():
        raise HeadroomError(
            f"There is no model '{model}' in {models_folder(home)}.", advice="See `headroom models list`."
        )
    return folder


def _checked_name(name: str) -> str:
    if not _NAME.match(name):
        raise HeadroomError(f"'{name}' is no name of a checkpoint.", expected="Expected one such as checkpoint-500.")
    return name


def _not_there(path: Path) -> HeadroomError:
    return HeadroomError(f"There is no checkpoint at {path}.", advice="See `headroom checkpoints list`.")


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
