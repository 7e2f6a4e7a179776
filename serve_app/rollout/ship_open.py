"""Opens a file of a checkpoint so that no link, anywhere below its directory, can lead elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath

from serve_app.errors import CheckpointRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Tells one state of one file from any other: a file that is changed or replaced gets another stamp.

    Without the number of its disk, which differs from node to node on a shared one.
    """

    inode: int
    num_bytes: int
    modified_ns: int


def stamp_of(file: FileIO) -> Stamp:
    found = os.fstat(file.fileno())
    return Stamp(inode=found.st_ino, num_bytes=found.st_size, modified_ns=found.st_mtime_ns)


@contextmanager
def opened(directory: Path, name: str, *, flags: int = os.O_RDONLY) -> Iterator[FileIO]:
    """The file `name` below `directory`; no link is followed after `directory` itself.

    `O_CREAT` makes the folders between as well.
    Raises: CheckpointRefused if it is no regular file, OSError (ELOOP or ENOTDIR for a link).
    """
    *folders, last = PurePosixPath(name).parts
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            at = _entered(at, folder, make=bool(flags & os.O_CREAT))
        descriptor = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=at)
    finally:
        os.close(at)
    with FileIO(descriptor, "r" if not flags & (os.O_RDWR | os.O_WRONLY) else "r+") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointRefused(
                f"{name} in {directory} is no regular file.",
                expected="Expected plain files.",
                advice="Make or copy the checkpoint again.",
            )
        yield file


def _entered(at: int, folder: str, *, make: bool) -> int:
    """The folder inside the one that `at` is open on; `at` is closed when that worked."""
    if make:
        try:
            os.mkdir(folder, 0o755, dir_fd=at)
        except FileExistsError:
            pass
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    os.close(at)
    return inside
