"""Bytes from a source into a file, hashed on the way: one read, constant memory.

A second thread hashes what the first one writes, and a third asks the kernel to write back behind them, so that disk,
processor and source work at the same time. Knows nothing of names, parcels or networks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from queue import SimpleQueue
from typing import Final, Protocol

CHUNK_BYTES: Final = 256 << 10
"""Measured best of 128 KiB to 16 MiB: a few of them stay in a core's cache between copy and hash (DESIGN.md)."""
NUM_CHUNKS: Final = 8
FLUSH_BYTES: Final = 64 << 20
"""Dirty pages a copy leaves behind itself at most, per flush under way."""


class Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills what it can, 0 at the end. Raises: OSError."""
        ...


def pump(source: Readable, target: FileIO, *, num_bytes: int, copied: Callable[[int], None]) -> str:
    """SHA-256 of what `target` then holds, what it held before included; `target` is flushed to disk.

    Goes on at the end of `target` until it has `num_bytes` or `source` ends. A source that has more is read one
    chunk further at most; nothing of it is written. `copied` is told of every chunk and may raise to end it.
    Raises: OSError.
    """
    digest = hashlib.sha256()
    done = _hash_whole(target, digest.update)
    with ThreadPoolExecutor(2, thread_name_prefix="ship") as threads:
        writer = _Writer(target, digest.update, threads)
        try:
            while done < num_bytes and (count := writer.one(source, num_bytes - done)):
                done += count
                copied(count)
        finally:
            writer.end()
        os.fsync(target.fileno())
    return digest.hexdigest()


class _Writer:
    """Hands each chunk that it wrote to the hasher, and gets its buffer back from there: back-pressure both ways."""

    def __init__(self, target: FileIO, update: Callable[[memoryview], None], threads: ThreadPoolExecutor) -> None:
        self._target = target
        self._update = update
        self._threads = threads
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._written: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        for _ in range(NUM_CHUNKS):
            self._free.put(memoryview(bytearray(CHUNK_BYTES)))
        self._hashing = threads.submit(self._hash)
        self._flushing: Future[None] | None = None
        self._unflushed = 0

    def one(self, source: Readable, at_most: int) -> int:
        """Bytes of one chunk moved; 0 at the end of `source`."""
        chunk = self._free.get()
        count = source.readinto(chunk[: min(at_most, CHUNK_BYTES)]) or 0
        _write_all(self._target, chunk[:count])
        self._written.put((chunk, count))
        self._unflushed += count
        if self._unflushed >= FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._check_flush()
            self._flushing, self._unflushed = self._threads.submit(os.fdatasync, self._target.fileno()), 0
        return count

    def end(self) -> None:
        """Waits until everything written is hashed. Raises: OSError of a flush."""
        self._written.put(None)
        self._hashing.result()
        self._check_flush()

    def _check_flush(self) -> None:
        if self._flushing is not None:
            self._flushing.result()

    def _hash(self) -> None:
        while (written := self._written.get()) is not None:
            chunk, count = written
            self._update(chunk[:count])
            self._free.put(chunk)


def _hash_whole(target: FileIO, update: Callable[[memoryview], None]) -> int:
    """From the beginning to the end of what is there, where the next write goes."""
    target.seek(0)
    chunk, done = memoryview(bytearray(CHUNK_BYTES)), 0
    while count := target.readinto(chunk):
        update(chunk[:count])
        done += count
    return done


def _write_all(target: FileIO, piece: memoryview) -> None:
    while len(piece):
        piece = piece[target.write(piece) or 0 :]
