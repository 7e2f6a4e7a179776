"""A job's log: what its program printed, bounded in bytes, read by offset while it is written.

Parts named by the offset they begin at. The oldest go when all together are too large, so an offset always means the
same byte, and what is missing before it is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from serve_app.jobs.ports import LogPart

_NUM_PARTS: Final = 4
_NAME: Final = "log-{:015d}.txt"


class LogFile:
    """Written by one process. A job's next attempt on the same node goes on in it."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._part_bytes = max(1, max_bytes // _NUM_PARTS)
        self.num_lost = 0
        """Bytes that the disk did not take."""
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, data: bytes) -> None:
        """Never raises: a program must not fail because its log cannot be kept."""
        while data:
            part = self._part()
            size = part.stat().st_size if part.exists() else 0
            head, data = data[: self._part_bytes - size], data[self._part_bytes - size :]
            try:
                with part.open("ab") as file:
                    file.write(head)
            except OSError:
                self.num_lost += len(head) + len(data)
                return

    def _part(self) -> Path:
        """The part to write to, with room for a byte at least. Drops the oldest when it begins a new one."""
        parts = _parts(self._folder)
        if not parts:
            return self._folder / _NAME.format(0)
        start, newest = parts[-1]
        size = newest.stat().st_size
        if size < self._part_bytes:
            return newest
        for _, old in parts[: max(0, len(parts) - _NUM_PARTS + 1)]:
            old.unlink(missing_ok=True)
        return self._folder / _NAME.format(start + size)


def read_log(folder: Path, *, offset: int, max_bytes: int) -> LogPart:
    """From `offset` on; a negative one counts from the end. Bytes that are no text are shown as such."""
    parts = _parts(folder)
    if not parts:
        return LogPart(text="", offset=0, next_offset=0)
    first = parts[0][0]
    end = parts[-1][0] + parts[-1][1].stat().st_size
    wanted = max(0, end + offset) if offset < 0 else min(offset, end)
    begin = max(first, wanted)
    data = b"".join(_bytes(path, begin - start, max_bytes) for start, path in parts)[:max_bytes]
    data = data[: _whole_length(data)]
    return LogPart(
        text=data.decode("utf-8", "replace"),
        offset=begin,
        next_offset=begin + len(data),
        num_dropped=begin - wanted,
    )


def _parts(folder: Path) -> list[tuple[int, Path]]:
    """With the offset each begins at, in order."""
    return sorted((int(path.stem.removeprefix("log-")), path) for path in folder.glob("log-*.txt"))


def _bytes(path: Path, skip: int, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, skip))
            return file.read(max_bytes)
    except FileNotFoundError:  # dropped while we read
        return b""


def _whole_length(data: bytes) -> int:
    """Without a character at the end that is cut in two; the next reading begins with it."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) - back if needed > back and len(data) > back else len(data)
    return len(data)
