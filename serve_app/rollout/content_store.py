"""The checkpoints that one node keeps, each under its full digest: whole and verified, or not there at all.

    <root>/checkpoints/<digest>/...            as in the checkpoint, read-only, in place by one rename
    <root>/partial/<digest>/...                what has arrived of one that is on its way
    <root>/partial/<digest>.lock               held while it arrives

Plain directories and no blobs, because an engine opens a directory and two checkpoints share little. Copies and never
hard links: a link shares its bytes with a file that somebody may edit. Does not know where bytes come from.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from serve_app.errors import CheckpointRefused
from serve_app.rollout.content_store_care import Stored, to_remove
from serve_app.rollout.ship_errors import FULL, ShipFailed, broke_off, disk_full
from serve_app.rollout.ship_open import Stamp, opened, stamp_of
from serve_app.rollout.ship_parcel import Parcel, check_parcel_names, full_digest, refused
from serve_app.rollout.ship_pump import Pump, Readable
from serve_app.training.checkpoints import Verified, verify_checkpoint
from serve_app.training.file_rules import check_safe_contents, list_files
from serve_app.training.manifest import FileEntry, file_name
from serve_app.training.weight_files import check_weight_files

DIGEST_DIGITS: Final = 64
KEEP_FREE_BYTES: Final = 256 << 20
"""Left on the disk by a copy: state and logs lie there too."""
MOST_PARTIAL: Final = 4
"""Checkpoints on their way, or broken off, that are kept for going on."""


class Source(Protocol):
    """Where the bytes of a parcel come from."""

    def read(self, name: str, offset: int) -> AbstractContextManager[Readable]:
        """The file `name` from `offset` on. Raises: CheckpointRefused, ShipFailed, OSError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """`copied_bytes` were moved now; the rest was there, from an earlier try or because it was stored before."""

    path: Path
    copied_bytes: int
    kept_bytes: int


def _unheard(_: int) -> None:
    pass


class ContentStore:
    """Safe with several processes on one root: one lock per checkpoint that arrives, and only renames are seen."""

    def __init__(self, root: Path, *, keep_free_bytes: int = KEEP_FREE_BYTES) -> None:
        self._checkpoints = root / "checkpoints"
        self._partial = root / "partial"
        self._keep_free_bytes = keep_free_bytes
        for folder in (self._checkpoints, self._partial):
            folder.mkdir(parents=True, exist_ok=True)

    def path_of(self, digest: str) -> Path | None:
        """Where a stored checkpoint lies; None when it is not stored. Reads no byte of it."""
        path = self._checkpoints / _checked(digest)
        return path if path.is_dir() else None

    def stored(self) -> tuple[Stored, ...]:
        """All that is stored, newest first."""
        found = []
        for path in self._checkpoints.iterdir():
            if _is_digest(path.name):
                num_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                found.append(Stored(digest=path.name, num_bytes=num_bytes, stored_ns=path.stat().st_mtime_ns))
        return tuple(sorted(found, key=lambda one: (-one.stored_ns, one.digest)))

    def verify(self, digest: str) -> Verified:
        """Reads every byte of a stored checkpoint, for whoever is about to open it.

        Raises: CheckpointRefused if it is not there, or no longer what it was.
        """
        path = self.path_of(digest)
        if path is None:
            raise CheckpointRefused(
                f"The checkpoint {digest[:12]} is not in the store of this node ({self._checkpoints}).",
                expected="Expected it to be shipped before it is used.",
                advice="Ship it again.",
            )
        found = verify_checkpoint(path)
        if (real := full_digest(found.files)) != digest:
            raise refused(f"what is stored as {digest[:12]} is {real[:12]} now: it was changed on the disk")
        return found

    def receive(self, parcel: Parcel, source: Source, *, copied: Callable[[int], None] = _unheard) -> Received:
        """Stores the parcel, unless it is there and still right to the byte.

        Raises: CheckpointRefused if the bytes are not those of the parcel; ShipFailed if they did not all arrive.
        What has arrived is kept for the next try, but for a file that proved wrong, and but for a full disk.
        """
        check_parcel_names(parcel.files)
        if full_digest(parcel.files) != parcel.digest:
            raise refused("its digest is not that of its files")
        with self._locked(parcel.digest):
            if self._is_whole(parcel.digest):
                return Received(path=self._place(parcel), copied_bytes=0, kept_bytes=parcel.num_bytes)
            return self._receive(parcel, source, copied)

    def collect(self, *, keep: Collection[str], newest: int) -> tuple[str, ...]:
        """Removes all but `keep` (deployed, previous, pinned) and the `newest`; returns what was removed.

        Also what broke off, but for the last few and for what is arriving now.
        """
        removed = to_remove(self.stored(), keep=keep, newest=newest)
        for digest in removed:
            self.remove(digest)
        self._collect_partial()
        return removed

    def remove(self, digest: str) -> None:
        """It is gone at once, whatever happens while its files are deleted."""
        path = self.path_of(digest)
        if path is None:
            return
        with self._locked(digest):
            shutil.rmtree(self._partial / digest, ignore_errors=True)
            path.rename(self._partial / digest)
            shutil.rmtree(self._partial / digest)

    # -- Inside ------------------------------------------------------------------------------------

    def _place(self, parcel: Parcel) -> Path:
        return self._checkpoints / parcel.digest

    def _receive(self, parcel: Parcel, source: Source, copied: Callable[[int], None]) -> Received:
        partial, moved = self._partial / parcel.digest, _Moved(copied)
        try:
            partial.mkdir(exist_ok=True)
            _clear_strangers(partial, parcel)
            self._check_room(parcel, partial)
            stamps = {name: _fill(partial, name, parcel.files[name], source, moved) for name in sorted(parcel.files)}
            self._commit(parcel, partial, stamps)
        except OSError as error:
            if error.errno in FULL:
                shutil.rmtree(partial, ignore_errors=True)
                raise disk_full(self._checkpoints) from error
            raise broke_off(f"The checkpoint {parcel.weights_version} did not arrive whole", error) from error
        path = self._place(parcel)
        return Received(path=path, copied_bytes=moved.num_bytes, kept_bytes=parcel.num_bytes - moved.num_bytes)

    def _check_room(self, parcel: Parcel, partial: Path) -> None:
        there = sum(file.lstat().st_size for file in partial.rglob("*") if file.is_file())
        needed_bytes = max(0, parcel.num_bytes - there)
        free_bytes = max(0, shutil.disk_usage(partial).free - self._keep_free_bytes)
        if needed_bytes > free_bytes:
            shutil.rmtree(partial, ignore_errors=True)
            raise disk_full(self._checkpoints, needed_bytes=needed_bytes, free_bytes=free_bytes)

    def _commit(self, parcel: Parcel, partial: Path, stamps: dict[str, Stamp]) -> None:
        """From here on others see it. Everything in it is on the disk before the rename, and the rename after it."""
        names = list_files(partial)
        if extra := sorted(set(names) - parcel.files.keys()):
            raise refused(f"{extra[0]} lies among its files on the way and is not one of them")
        check_safe_contents(partial, names)
        check_weight_files(partial, names)
        for name, stamp in stamps.items():
            with opened(partial, name) as file:
                os.fchmod(file.fileno(), 0o444)
                if stamp_of(file) != stamp:
                    raise refused(f"{name} was changed between its check and its use")
        for folder in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
            _flush(folder)
        os.utime(partial)
        partial.rename(self._place(parcel))
        _flush(self._checkpoints)

    def _is_whole(self, digest: str) -> bool:
        """What was stored and has been spoilt since is set aside, so that only what is wrong of it is fetched again."""
        if self.path_of(digest) is None:
            return False
        try:
            self.verify(digest)
        except CheckpointRefused:
            shutil.rmtree(self._partial / digest, ignore_errors=True)
            (self._checkpoints / digest).rename(self._partial / digest)
            return False
        return True

    def _collect_partial(self) -> None:
        left = [path for path in self._partial.iterdir() if _is_digest(path.name) and path.is_dir()]
        for path in sorted(left, key=lambda one: -one.stat().st_mtime_ns)[MOST_PARTIAL:]:
            try:
                with self._locked(path.name):
                    shutil.rmtree(path, ignore_errors=True)
            except ShipFailed:
                continue  # it is arriving

    @contextmanager
    def _locked(self, digest: str) -> Iterator[None]:
        """The kernel frees the lock when its holder dies. Raises: ShipFailed when another holds it."""
        path = self._partial / f"{_checked(digest)}.lock"
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise broke_off(f"The checkpoint {digest[:12]} is on its way to this node already", error) from error
            yield


class _Moved:
    """Counts for one shipment, and tells whoever asked."""

    def __init__(self, copied: Callable[[int], None]) -> None:
        self.num_bytes = 0
        self._copied = copied

    def __call__(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._copied(num_bytes)


def _fill(partial: Path, name: str, entry: FileEntry, source: Source, moved: _Moved) -> Stamp:
    """The file with the right bytes in it; what is there already is hashed and gone on from.

    Begins anew, once, when what was there proves wrong. Raises: CheckpointRefused, ShipFailed, OSError.
    """
    with opened(partial, name, flags=os.O_RDWR | os.O_CREAT) as file:
        there = stamp_of(file).num_bytes
        digest = _pumped(file, name, entry, source, moved)
        if digest != entry.sha256 and there:
            file.truncate(0)
            digest = _pumped(file, name, entry, source, moved)
        if digest != entry.sha256:
            file.truncate(0)
            raise refused(f"{name} arrived with SHA-256 {digest}, not {entry.sha256}; what arrived of it was removed")
        return stamp_of(file)


def _pumped(file: FileIO, name: str, entry: FileEntry, source: Source, moved: _Moved) -> str:
    pump = Pump(file)
    if pump.num_bytes < entry.bytes:
        with source.read(name, pump.num_bytes) as readable:
            pump.fill(readable, num_bytes=entry.bytes, copied=moved)
        if pump.num_bytes < entry.bytes:
            raise broke_off(f"{name} ended early", EOFError(f"{pump.num_bytes} of {entry.bytes} bytes"))
    return pump.end()


def _clear_strangers(partial: Path, parcel: Parcel) -> None:
    """Nothing but files of the parcel is gone on from; they may be written again."""
    for path in partial.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or file_name(path, partial) not in parcel.files:
            path.unlink()
        else:
            path.chmod(0o600)


def _checked(digest: str) -> str:
    """Raises: CheckpointRefused for what is no digest, before it becomes part of a path."""
    if not _is_digest(digest):
        raise refused(f"{digest[:DIGEST_DIGITS]!r} is no digest of a checkpoint")
    return digest


def _is_digest(name: str) -> bool:
    return len(name) == DIGEST_DIGITS and set(name) <= set("0123456789abcdef")


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
