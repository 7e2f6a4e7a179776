"""What is shipped: the files of one checkpoint by name, size and digest, agreed before a byte is moved.

Pure but for `pack`, which looks at names and sizes and reads small files. Whoever receives a parcel trusts nothing
else: names are judged here, bytes by their digests.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from serve_app.errors import CheckpointRefused
from serve_app.rollout.ship_open import Stamp, opened, stamp_of
from serve_app.training.checkpoints import read_manifest, verify_checkpoint
from serve_app.training.file_rules import MOST_FILES, check_names
from serve_app.training.manifest import MANIFEST_NAME, WEIGHTS_VERSION_DIGITS, FileEntry, digest_file, weights_version

LONGEST_NAME: Final = 255
MOST_BYTES: Final = 4 << 40
"""No checkpoint is larger; a size beyond it is a lie that must not fill a disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """`files` are all files, the manifest included where there is one.

    `digest` is the full SHA-256 of which `weights_version` is the beginning. It does not cover the manifest, so that
    the same weights made twice are the same parcel.
    """

    digest: str
    files: Mapping[str, FileEntry]

    @property
    def weights_version(self) -> str:
        return self.digest[:WEIGHTS_VERSION_DIGITS]

    @property
    def num_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A parcel and where it lies. `stamps` tell another node whether its path leads to these very files."""

    parcel: Parcel
    path: Path
    stamps: Mapping[str, Stamp]


def parcel_of(files: Mapping[str, FileEntry]) -> Parcel:
    """Raises: CheckpointRefused for names that could lead out of a directory, pickles, code, or a lack of files."""
    check_parcel_names(files)
    return Parcel(digest=full_digest(files), files=dict(files))


def full_digest(files: Mapping[str, FileEntry]) -> str:
    """All 64 digits of what `training.manifest.weights_version` shows twelve of."""
    weighed = {name: entry for name, entry in files.items() if name != MANIFEST_NAME}
    whole = hashlib.sha256()
    for name in sorted(weighed):
        whole.update(f"{weighed[name].sha256} {weighed[name].bytes} {name}\n".encode())
    assert whole.hexdigest().startswith(weights_version(weighed)), "the two digests of a checkpoint have drifted apart"
    return whole.hexdigest()


def check_parcel_names(files: Mapping[str, FileEntry]) -> None:
    """Raises: CheckpointRefused."""
    if len(files) > MOST_FILES:
        raise refused(f"it names {len(files)} files, at most {MOST_FILES} are taken")
    for name, entry in files.items():
        if reason := _fault_of(name):
            raise refused(f"the name {name[:LONGEST_NAME]!r} {reason}")
        if any(str(folder) in files for folder in PurePosixPath(name).parents):
            raise refused(f"{name!r} lies in something that is a file itself")
        if entry.bytes > MOST_BYTES:
            raise refused(f"{name!r} would have {entry.bytes} bytes")
    check_names(Path("parcel"), files.keys())


def pack(checkpoint: Path) -> Packed:
    """The parcel of a checkpoint that lies here.

    With a manifest nothing large is read now: its digests are promises, held against the bytes while they are copied.
    Without one, every byte is read first.
    Raises: CheckpointRefused, also for symbolic links and for files that the manifest does not name or that lack.
    """
    try:
        stamps = _stamps(checkpoint)
        manifest = read_manifest(checkpoint)
        if manifest is None:
            promised = dict(verify_checkpoint(checkpoint).files)
        else:
            promised = {**manifest.files, MANIFEST_NAME: digest_file(checkpoint / MANIFEST_NAME)}
    except OSError as error:
        raise refused(f"{error.filename or checkpoint} cannot be read: {error.strerror or error}") from error
    for name in sorted(stamps.keys() | promised.keys()):
        if name not in stamps:
            raise refused(f"{name} of {checkpoint} is missing")
        if name not in promised:
            raise refused(f"{name} in {checkpoint} is not in its manifest")
        if stamps[name].num_bytes != promised[name].bytes:
            told = promised[name].bytes
            raise refused(f"{name} of {checkpoint} has {stamps[name].num_bytes} bytes, its manifest says {told}")
    return Packed(parcel=parcel_of(promised), path=checkpoint, stamps=stamps)


def sees(packed: Packed) -> bool:
    """Whether `packed.path` leads to the same files from here: one machine, or one shared disk."""
    try:
        return all(_stamp(packed.path, name) == stamp for name, stamp in packed.stamps.items())
    except (OSError, CheckpointRefused):
        return False


def refused(why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"The checkpoint is not shipped: {why}.",
        expected="Expected plain files inside one directory, exactly those that its manifest names, byte for byte.",
        advice="Make or copy the checkpoint again; do not edit one in place.",
    )


class _ParcelFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = Field(ge=1, le=1)
    files: dict[str, FileEntry]


_PARCEL_FILE: Final = TypeAdapter(_ParcelFile)


def parcel_to_json(parcel: Parcel) -> bytes:
    return _ParcelFile(format_version=1, files=dict(parcel.files)).model_dump_json().encode()


def parcel_from_json(text: bytes) -> Parcel:
    """Raises: ValueError if it is no parcel, CheckpointRefused if its names are not to be taken."""
    return parcel_of(_PARCEL_FILE.validate_json(text).files)


def _fault_of(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or str(path) != name:
        return "is no plain relative path"
    if any(part in ("..", ".") or part.startswith(".") for part in path.parts):
        return "leads out of the directory, or is hidden"
    if "\\" in name or any(ord(letter) < 32 for letter in name):
        return "has letters that no file of a checkpoint needs"
    return "is too long" if len(name.encode()) > LONGEST_NAME else ""


def _stamps(checkpoint: Path) -> dict[str, Stamp]:
    """Every file below `checkpoint`. A link is refused, whatever it leads to: it may lead elsewhere a moment later."""
    stamps: dict[str, Stamp] = {}
    for folder, folders, files in os.walk(checkpoint, onerror=_raise):
        for entry in (*folders, *files):
            path = Path(folder, entry)
            mode = path.lstat().st_mode
            name = str(PurePosixPath(path.relative_to(checkpoint)))
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise refused(f"{name} of {checkpoint} is a symbolic link or no regular file")
            if len(stamps) >= MOST_FILES:
                raise refused(f"{checkpoint} has more than {MOST_FILES} files")
            stamps[name] = _stamp(checkpoint, name)
    return stamps


def _stamp(checkpoint: Path, name: str) -> Stamp:
    with opened(checkpoint, name) as file:
        return stamp_of(file)


def _raise(error: OSError) -> None:
    raise error
