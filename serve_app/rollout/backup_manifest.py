"""What a backup says of itself, sealed with a key of this home, so that a damaged or foreign one is known as such."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from serve_app.errors import HeadroomError
from serve_app.training.manifest import Digest, FileEntry

SEAL_NAME: Final = ".seal"
LARGEST_MANIFEST_BYTES: Final = 1 << 20

BackupId = Annotated[str, StringConstraints(pattern=r"^backup-\d{8}T\d{6}Z-[0-9a-f]{6}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""One component of a path that can lead nowhere else."""
CheckpointName = Annotated[str, StringConstraints(pattern=r"^checkpoint-\d{1,12}$")]


class BackupRefused(HeadroomError):
    """A backup is not there, damaged, or not of this home; nothing was changed."""


class SavedWeights(BaseModel):
    """A checkpoint in the store that all backups share, and the name it had in its model's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: Digest
    name: CheckpointName


class BackupManifest(BaseModel):
    """The three targets. `seal` is an HMAC-SHA256 over all the rest, in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1]
    id: BackupId
    created_at: datetime
    reason: str
    configuration: dict[FileName, FileEntry]
    state: dict[FileName, FileEntry]
    weights: dict[FileName, SavedWeights]
    seal: str = ""

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """By path inside the backup."""
        configuration = {f"configuration/{name}": entry for name, entry in self.configuration.items()}
        return configuration | {f"state/{name}": entry for name, entry in self.state.items()}


def sealed(manifest: BackupManifest, key: bytes) -> BackupManifest:
    return manifest.model_copy(update={"seal": _seal(manifest, key)})


def read_backup_manifest(path: Path, key: bytes) -> BackupManifest:
    """Raises: BackupRefused."""
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST_MANIFEST_BYTES:
            raise ValueError("it is a link, or far too large")
        manifest = BackupManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BackupRefused(
            f"There is no backup {path.parent.name!r}.",
            expected="Expected one that was written to its end.",
            advice="See `headroom backup list`.",
        ) from error
    except (OSError, ValueError) as error:
        raise damaged(path.parent.name, f"its manifest cannot be read ({str(error).splitlines()[0]})") from error
    if manifest.id != path.parent.name or not hmac.compare_digest(manifest.seal, _seal(manifest, key)):
        raise damaged(path.parent.name, "its manifest was changed, or it was made in another home")
    return manifest


def damaged(name: str, why: str) -> BackupRefused:
    return BackupRefused(
        f"The backup {name} is refused: {why}.",
        expected="Expected a backup as `headroom backup create` made it in this home, byte for byte.",
        advice="Take another one: `headroom backup list` shows which are whole.",
    )


def seal_key(root: Path) -> bytes:
    """The home's own key, made once. It goes with the folder of backups when that is moved to another machine."""
    path = root / SEAL_NAME
    draft = root / f"{SEAL_NAME}-{secrets.token_hex(4)}"
    if not path.exists():
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(descriptor)
        try:
            path.hardlink_to(draft)  # the first of two makers wins
        except FileExistsError:
            pass
        draft.unlink()
    return path.read_bytes()


def _seal(manifest: BackupManifest, key: bytes) -> str:
    return hmac.new(
        key, manifest.model_copy(update={"seal": ""}).model_dump_json().encode(), hashlib.sha256
    ).hexdigest()
