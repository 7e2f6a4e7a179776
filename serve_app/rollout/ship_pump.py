"""Bytes from a source into a file, hashed on the way: constant memory, each byte hashed once.

One thread moves: the kernel copies from file to file, anything else comes through one buffer. A second hashes what the
target holds right behind it, read back from the page cache, so that what was judged is what was written. A third has
it written back meanwhile, so that the last flush is short. Knows nothing of names, parcels or networks.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from typing import Final, Protocol

CHUNK_BYTES: Final = 1 << 20
"""Moved at a time. Measured against 512 KiB to 64 MiB (DESIGN.md)."""
HASH_BYTES: Final = 256 << 10
"""Read back at a time: it stays in a core's own cache between the reading and the hashing."""
AHEAD: Final = 8
"""Chunks that moving may be ahead of hashing: few enough to be in the processor's shared cache still."""
FLUSH_BYTES: Final = 64 << 20
"""Dirty pages a copy leaves behind itself at most, per flush under way."""
_NO_KERNEL_COPY: Final = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills what it can, 0 at the end. Raises: OSError."""
        ...


class Pump:
    """One file that fills up, and the SHA-256 of all it holds.

    What it holds already is read at once: before a source is asked, which would not wait for that.
    """

    def __init__(self, target: FileIO) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self._buffer = memoryview(bytearray(HASH_BYTES))
        self.num_bytes = 0
        self._hash_to(os.fstat(target.fileno()).st_size)

    def fill(self, source: Readable, *, num_bytes: int, copied: Callable[[int], None]) -> None:
        """Goes on at the end until the file has `num_bytes` or `source` ends, whichever is first.

        `copied` is told of every chunk and may raise to end it. Raises: OSError.
        """
        done = self._target.seek(self.num_bytes)
        move = _mover(source, self._target)
        with ThreadPoolExecutor(1, "ship-hash") as hashing, ThreadPoolExecutor(1, "ship-flush") as flushing:
            behind = deque[Future[None]]()
            flush = _Flush(self._target.fileno(), flushing)
            while done < num_bytes and (count := move(min(CHUNK_BYTES, num_bytes - done))):
                done += count
                if len(behind) == AHEAD:
                    behind.popleft().result()
                behind.append(hashing.submit(self._hash_to, done))
                flush.grown(count)
                copied(count)
            for hashed in behind:
                hashed.result()
            flush.end()

    def end(self) -> str:
        """The digest of a file that is on the disk from here on. Raises: OSError."""
        os.fsync(self._target.fileno())
        return self._digest.hexdigest()

    def _hash_to(self, end: int) -> None:
        while self.num_bytes < end:
            piece = self._buffer[: min(HASH_BYTES, end - self.num_bytes)]
            count = os.preadv(self._target.fileno(), [piece], self.num_bytes)
            if not count:
                raise OSError(errno.EIO, "what was written is not there")
            self._digest.update(piece[:count])
            self.num_bytes += count


class _Flush:
    """One flush at a time, behind what is written."""

    def __init__(self, descriptor: int, thread: ThreadPoolExecutor) -> None:
        self._descriptor = descriptor
        self._thread = thread
        self._flushing: Future[None] | None = None
        self._unflushed = 0

    def grown(self, num_bytes: int) -> None:
        self._unflushed += num_bytes
        if self._unflushed >= FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self.end()
            self._flushing, self._unflushed = self._thread.submit(os.fdatasync, self._descriptor), 0

    def end(self) -> None:
        """Raises: OSError of a flush."""
        if self._flushing is not None:
            self._flushing.result()


def _mover(source: Readable, target: FileIO) -> Callable[[int], int]:
    """Moves at most so many bytes from where `source` stands to where `target` does; 0 at the end of `source`."""
    buffer = memoryview(bytearray(CHUNK_BYTES))

    def through_buffer(at_most: int) -> int:
        count = source.readinto(buffer[:at_most]) or 0
        _write_all(target, buffer[:count])
        return count

    def by_kernel(at_most: int) -> int:
        assert isinstance(source, FileIO)
        try:
            return os.copy_file_range(source.fileno(), target.fileno(), at_most)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:  # two kinds of file system, or an old kernel
                raise
            return through_buffer(at_most)

    return by_kernel if isinstance(source, FileIO) else through_buffer


def _write_all(target: FileIO, piece: memoryview) -> None:
    while len(piece):
        piece = piece[target.write(piece) or 0 :]
