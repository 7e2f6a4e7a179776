"""Backups of three targets: configuration, state and weights. Each is there whole, or not at all.

    <home>/backups/<id>/manifest.json, configuration/..., state/...
    <home>/backups/weights/...          one store of checkpoints for all backups, each checkpoint once

Does not know what a cluster is: the caller names files, databases and checkpoints.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from serve_app.errors import CheckpointRefused
from serve_app.rollout.backup_manifest import (
    BackupManifest,
    BackupRefused,
    SavedWeights,
    damaged,
    read_backup_manifest,
    seal_key,
    sealed,
)
from serve_app.rollout.backup_sqlite import check_database, save_database
from serve_app.rollout.content_store import KEEP_FREE_BYTES, ContentStore
from serve_app.rollout.ship_errors import FULL
from serve_app.rollout.ship_folder import FolderSource
from serve_app.rollout.ship_parcel import pack
from serve_app.training.manifest import digest_file

MANIFEST_NAME: Final = "manifest.json"
KEPT: Final = 20
"""Backups that stay by default; the oldest go first."""
_PARTIAL: Final = ".partial-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What goes into a backup, by names of the caller's.

    `weights`: by model, its `checkpoint-<step>` directory below `<home>/models/<model>`.
    """

    configuration: Mapping[str, bytes] = field(default_factory=dict)
    databases: Mapping[str, Path] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """`refused` says why a backup cannot be used; its manifest is None then."""

    id: str
    manifest: BackupManifest | None
    refused: str | None = None


class Backups:
    """For one process at a time: the controller, or the command while no controller runs."""

    def __init__(self, home: Path, *, keep_free_bytes: int = KEEP_FREE_BYTES) -> None:
        self._root = home / "backups"
        self._root.mkdir(parents=True, exist_ok=True)
        self._store = ContentStore(self._root / "weights", keep_free_bytes=keep_free_bytes)

    @property
    def weights(self) -> ContentStore:
        return self._store

    def path_of(self, backup_id: str) -> Path:
        """Raises: BackupRefused for a name that is no backup's, before it becomes part of a path."""
        if not backup_id.startswith("backup-") or not backup_id.replace("-", "").isalnum():
            raise damaged(repr(backup_id[:64]), "this is not the name of a backup")
        return self._root / backup_id

    def create(self, contents: Contents, *, now: datetime, reason: str, kept: int = KEPT) -> BackupManifest:
        """All targets or none; then the oldest beyond `kept` are removed.

        Raises: BackupRefused for a target that cannot be saved, CheckpointRefused and ShipFailed for weights.
        """
        weights = {model: self._save_weights(path) for model, path in contents.weights.items()}
        name = f"backup-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        draft = self._root / f"{_PARTIAL}{name}"
        try:
            self._write(contents, draft)
            manifest = BackupManifest(
                format_version=1,
                id=name,
                created_at=now,
                reason=reason,
                configuration={one: digest_file(draft / "configuration" / one) for one in contents.configuration},
                state={one: digest_file(draft / "state" / one) for one in contents.databases},
                weights=weights,
            )
            manifest = sealed(manifest, seal_key(self._root))
            _write_file(draft / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
            for folder in (draft / "configuration", draft / "state", draft):
                _flush(folder)
            draft.rename(self._root / name)
            _flush(self._root)
        except (OSError, sqlite3.Error) as error:
            raise _not_saved(error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.prune(kept)
        return manifest

    def listed(self) -> tuple[Listed, ...]:
        """Newest first; judged by their manifests only."""
        names = (path.name for path in self._root.iterdir() if path.name.startswith("backup-"))
        return tuple(self._listed(name) for name in sorted(names, reverse=True))

    def verify(self, backup_id: str) -> BackupManifest:
        """Reads every byte of it, weights included. Raises: BackupRefused."""
        path = self.path_of(backup_id)
        manifest = read_backup_manifest(path / MANIFEST_NAME, seal_key(self._root))
        _check_files(path, manifest)
        for name in manifest.state:
            check_database(path / "state" / name)
        for model, saved in manifest.weights.items():
            try:
                self._store.verify(saved.digest)
            except CheckpointRefused as error:
                raise damaged(backup_id, f"the weights of {model!r} are not whole ({error.what})") from error
        return manifest

    def prune(self, kept: int) -> tuple[str, ...]:
        """Removes whole backups beyond the newest `kept`, and weights that no backup names any more.

        One that is damaged counts as none and stays for a person to look at, and while there is one no weights go.
        """
        listed = self.listed()
        whole = [one.manifest for one in listed if one.manifest is not None]
        whole.sort(key=lambda manifest: manifest.created_at, reverse=True)
        for manifest in whole[kept:]:
            shutil.rmtree(self._root / manifest.id)
        if len(whole) == len(listed):
            named = {saved.digest for manifest in whole[:kept] for saved in manifest.weights.values()}
            self._store.collect(keep=named, newest=0)
        return tuple(manifest.id for manifest in whole[kept:])

    # -- Inside ------------------------------------------------------------------------------------

    def _save_weights(self, checkpoint: Path) -> SavedWeights:
        packed = pack(checkpoint.resolve())
        self._store.receive(packed.parcel, FolderSource(packed.path, packed.stamps))
        return SavedWeights(digest=packed.parcel.digest, name=checkpoint.resolve().name)

    def _write(self, contents: Contents, draft: Path) -> None:
        for left in self._root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left)  # of one that was killed
        for folder in (draft, draft / "configuration", draft / "state"):
            folder.mkdir(mode=0o700)
        for name, text in contents.configuration.items():
            _write_file(draft / "configuration" / name, text)
        for name, path in contents.databases.items():
            save_database(path, draft / "state" / name)
            _flush(draft / "state" / name)

    def _listed(self, name: str) -> Listed:
        try:
            return Listed(
                id=name, manifest=read_backup_manifest(self._root / name / MANIFEST_NAME, seal_key(self._root))
            )
        except BackupRefused as error:
            return Listed(id=name, manifest=None, refused=error.what)


def _check_files(path: Path, manifest: BackupManifest) -> None:
    """Exactly the files it names, each a plain one with its digest. Raises: BackupRefused."""
    there = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_symlink() or not file.is_dir()}
    if stranger := sorted(there ^ {*manifest.files, MANIFEST_NAME}):
        raise damaged(manifest.id, f"{stranger[0]} is missing, or is not part of it")
    for name, entry in manifest.files.items():
        if (path / name).is_symlink() or not (path / name).is_file() or digest_file(path / name) != entry:
            raise damaged(manifest.id, f"{name} was changed")


def _not_saved(error: OSError | sqlite3.Error) -> BackupRefused:
    full = (isinstance(error, OSError) and error.errno in FULL) or "disk is full" in str(error)
    return BackupRefused(
        f"No backup was made: {error}.",
        expected="Nothing that was there before has changed.",
        advice="Free disk space." if full else "Look after what could not be read.",
    )


def _write_file(path: Path, text: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
