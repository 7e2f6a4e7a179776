"""Brings a backup back: weights, state, configuration, in an order in which a break anywhere can be repeated.

Everything is verified before anything is changed. Each step is atomic by itself and the same when done twice, so a
restore that broke off is finished by restoring again.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.errors import CheckpointRefused
from serve_app.rollout.backup import Backups
from serve_app.rollout.backup_manifest import BackupManifest, SavedWeights, damaged
from serve_app.rollout.backup_sqlite import CONTROLLER_KEEPS, KeptRows, restore_database
from serve_app.rollout.ship_parcel import full_digest
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import write_deployed
from serve_app.training.writer import PARTIAL_PREFIX, REPLACED_PREFIX, clear_partial


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Where it goes, by the names it was saved under; what is not named here stays as it is.

    `databases` are connections of their owner. `models` is the folder of models, None to leave weights alone.
    """

    databases: Mapping[str, sqlite3.Connection] = field(default_factory=dict)
    configuration: Mapping[str, Path] = field(default_factory=dict)
    models: Path | None = None
    kept: Iterable[KeptRows] = CONTROLLER_KEEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """`weights`: by model, the checkpoint directory that `deployed` names now."""

    manifest: BackupManifest
    weights: Mapping[str, Path]


def restore(backups: Backups, backup_id: str, into: Targets) -> Restored:
    """Full rollback. The caller holds the lock of the models' folders, if anybody may write there.

    Raises: BackupRefused or CheckpointRefused before anything is changed; OSError or sqlite3.Error in the midst.
    """
    manifest = backups.verify(backup_id)
    path = backups.path_of(backup_id)
    missing = [
        *into.databases.keys() - manifest.state.keys(),
        *into.configuration.keys() - manifest.configuration.keys(),
    ]
    if missing:
        raise damaged(backup_id, f"it holds no {sorted(missing)[0]!r}")
    weights = restore_weights(backups, manifest, into.models) if into.models is not None else {}
    for name, connection in into.databases.items():
        restore_database(path / "state" / name, connection, kept=into.kept)
    for name, target in into.configuration.items():
        _replace(target, (path / "configuration" / name).read_bytes())
    for checkpoint in weights.values():
        write_deployed(checkpoint.parent, checkpoint)
    return Restored(manifest=manifest, weights=weights)


def restore_weights(backups: Backups, manifest: BackupManifest, models: Path) -> dict[str, Path]:
    """By model, the checkpoint directory that holds what was saved; copied back where it is gone or damaged.

    Raises: CheckpointRefused before any is copied when another whole checkpoint lies in the place of one.
    """
    places = {model: models / model / saved.name for model, saved in manifest.weights.items()}
    absent = {model for model, saved in manifest.weights.items() if not _holds(places[model], saved)}
    for model in absent:
        _copy_back(backups, manifest.weights[model], places[model])
    return places


def _holds(place: Path, saved: SavedWeights) -> bool:
    try:
        found = full_digest(verify_checkpoint(place).files)
    except CheckpointRefused:
        return False
    if found != saved.digest:
        raise CheckpointRefused(
            f"{place} holds other weights ({found[:12]}) than the backup ({saved.digest[:12]}), and they are whole.",
            expected="Expected nothing there that a restore would destroy.",
            advice="Move it away, then restore again.",
        )
    return True


def _copy_back(backups: Backups, saved: SavedWeights, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    clear_partial(place.parent)
    draft = place.with_name(f"{PARTIAL_PREFIX}{place.name}-restored")
    shutil.copytree(backups.weights.verify(saved.digest).path, draft)
    for file in draft.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    if not _holds(draft, saved):
        raise CheckpointRefused(f"What was copied to {draft} is not what the backup holds.", advice="Restore again.")
    if place.exists():
        spoilt = place.with_name(REPLACED_PREFIX + place.name)
        place.rename(spoilt)
        draft.rename(place)
        shutil.rmtree(spoilt)
    else:
        draft.rename(place)


def _replace(target: Path, text: bytes) -> None:
    draft = target.with_name(f".{target.name}.restored")
    draft.write_bytes(text)
    draft.replace(target)
