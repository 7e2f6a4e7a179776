"""Whether a directory is a checkpoint that may be opened, and which weights it holds.

Reads only; opens no weights beyond their headers and digests, and never unpickles anything. Every refusal
is a `CheckpointRefused` that says what happened, what was expected and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from serve_app.errors import CheckpointRefused
from serve_app.training.deployed import step_in_name
from serve_app.training.file_rules import check_names, check_safe_contents, list_files
from serve_app.training.manifest import MANIFEST_NAME, FileEntry, Manifest, digest_file, sealed_text, weights_version
from serve_app.training.sources import resolve_source
from serve_app.training.weight_files import check_weight_files, weights_bytes

__all__ = ["Verified", "accuracy_of", "read_manifest", "resolve_source", "step_of", "verify_checkpoint"]

TRAINER_STATE_NAME: Final = "trainer_state.json"
LARGEST_JSON_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A checkpoint whose every file was read and found as it should be.

    `step` is the trainer's, None when neither state file nor directory name says. `manifest` is None for
    a checkpoint that some other program made; its digests were computed here.
    `weights_bytes` is the sum of the tensors, without the headers of their files.
    """

    path: Path
    step: int | None
    weights_version: str
    weights_bytes: int
    files: Mapping[str, FileEntry]
    manifest: Manifest | None


def verify_checkpoint(directory: Path) -> Verified:
    """Reads the whole checkpoint once: names, safety, every byte against the manifest where there is one.

    Raises: CheckpointRefused.
    """
    if not directory.is_dir():
        raise CheckpointRefused(
            f"There is no checkpoint directory at {directory}.",
            expected="Expected a directory with config.json, tokenizer and safetensors.",
            advice="Correct the path, or make a default model with `headroom models make`.",
        )
    try:
        files = list_files(directory)
        check_names(directory, files)
        check_safe_contents(directory, files)
        manifest = read_manifest(directory)
        found = {name: digest_file(directory / name) for name in files if name != MANIFEST_NAME}
        if manifest is not None:
            _check_against(manifest, found, directory)
        check_weight_files(directory, files)
        return Verified(
            path=directory,
            step=manifest.step if manifest is not None else step_of(directory),
            weights_version=weights_version(found),
            weights_bytes=weights_bytes(directory, files),
            files=found,
            manifest=manifest,
        )
    except OSError as error:
        raise CheckpointRefused(
            f"{error.filename or directory} in checkpoint {directory} cannot be read: {error.strerror or error}.",
            expected="Expected files that this user may read.",
            advice="Correct the permissions or copy the checkpoint again.",
        ) from error


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest as its file says, nothing checked against it yet; None where there is none.

    Raises: CheckpointRefused if it is no manifest of this format, OSError if it cannot be read.
    """
    path = directory / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise ValueError(f"it has more than {LARGEST_JSON_BYTES} bytes")
        raw = path.read_bytes()
        manifest = Manifest.model_validate_json(raw)
        if manifest.seal is not None and raw != sealed_text(manifest).encode():
            raise ValueError("it was changed after it was written, its seal does not fit")
        return manifest
    except ValueError as error:
        raise CheckpointRefused(
            f"{path} is not a manifest: {_first_reason(error)}.",
            expected="Expected the manifest that was written with the checkpoint, format version 1.",
            advice="Copy the checkpoint again from where it was made.",
        ) from error


def step_of(directory: Path) -> int | None:
    """The trainer's step: `global_step` of trainer_state.json, else the number in `checkpoint-<step>`."""
    step = _trainer_state(directory).get("global_step")
    if isinstance(step, int) and not isinstance(step, bool) and step >= 0:
        return step
    return step_in_name(directory)


def accuracy_of(directory: Path) -> float | None:
    """Share of the test set answered right when the checkpoint was made; None where nobody says."""
    metrics = _trainer_state(directory).get("metrics")
    share = metrics.get("test_accuracy") if isinstance(metrics, dict) else None
    return float(share) if isinstance(share, (int, float)) else None


def _trainer_state(directory: Path) -> Mapping[str, Any]:
    """Empty when there is none, or none that can be read: it informs, nothing depends on it."""
    path = directory / TRAINER_STATE_NAME
    try:
        state = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _check_against(manifest: Manifest, found: Mapping[str, FileEntry], directory: Path) -> None:
    """Raises: CheckpointRefused naming the first file that is missing, extra, of another size or changed."""
    for name in sorted(manifest.files.keys() | found.keys()):
        wanted, real = manifest.files.get(name), found.get(name)
        if wanted == real:
            continue
        if real is None:
            what = f"{name} of checkpoint {directory} is missing."
        elif wanted is None:
            what = f"{name} in checkpoint {directory} is not in its manifest."
        elif wanted.bytes != real.bytes:
            what = f"{name} of checkpoint {directory} has {real.bytes} bytes, its manifest says {wanted.bytes}."
        else:
            what = f"{name} of checkpoint {directory} was changed: SHA-256 {real.sha256}, not {wanted.sha256}."
        raise CheckpointRefused(
            what,
            expected="Expected exactly the files that its manifest names, byte for byte.",
            advice="Copy the checkpoint again from where it was made; do not edit one in place.",
        )


def _first_reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
