"""The manifest of a checkpoint: what it is made of, to the byte, and where it came from.

Holds the file's form, the digests and the weights version made of them. Does not decide whether a
checkpoint may be opened (`serve_app.training.checkpoints` does).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MANIFEST_NAME: Final = "headroom_manifest.json"
FORMAT_VERSION: Final = 1
WEIGHTS_VERSION_DIGITS: Final = 12
READ_BYTES: Final = 1 << 20

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """Size and SHA-256 of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Digest


class Manifest(BaseModel):
    """`files` names every file of the checkpoint but the manifest itself, by its path inside it.

    `created_at` and `traceparent` differ between runs; everything `weights_version` covers does not.
    `parent` is the weights version training began from, None when it began from nothing.
    `seal` is the SHA-256 of the manifest's own text without it; None in manifests from before there was one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1]
    model: str
    step: Annotated[int, Field(ge=0)]
    files: dict[str, FileEntry]
    config_hash: str
    git_commit: str | None
    parent: str | None
    seed: int
    traceparent: str | None
    created_at: datetime
    seal: Digest | None = None

    @property
    def weights_version(self) -> str:
        return weights_version(self.files)


def sealed_text(manifest: Manifest) -> str:
    """The one text a sealed manifest has: a file with any other byte was changed after it was written."""
    bare = manifest.model_copy(update={"seal": None})
    seal = hashlib.sha256(bare.model_dump_json(indent=2).encode()).hexdigest()
    return manifest.model_copy(update={"seal": seal}).model_dump_json(indent=2)


def weights_version(files: Mapping[str, FileEntry]) -> str:
    """First 12 hex digits of the SHA-256 over one line per file, sorted by name: digest, size, name."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{files[name].sha256} {files[name].bytes} {name}\n".encode())
    return whole.hexdigest()[:WEIGHTS_VERSION_DIGITS]


def digest_file(path: Path) -> FileEntry:
    """Reads the file once, in bounded pieces.

    Raises: OSError.
    """
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
            num_bytes += len(piece)
    return FileEntry(bytes=num_bytes, sha256=digest.hexdigest())


def file_name(path: Path, directory: Path) -> str:
    """The name a file has in a manifest: its path below `directory`, with `/`."""
    return str(PurePosixPath(path.relative_to(directory)))
