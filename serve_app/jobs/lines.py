"""Bytes of a pipe to whole lines, however they come and however long they are. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from serve_app.jobs.messages import LONGEST_LINE

_NUM_KEPT: Final = 20
_KEPT_CHARS: Final = 500


class Lines:
    """A line longer than any message comes in pieces, so that nothing grows without bound."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> Iterator[bytes]:
        """Whole lines with their ends. Empty `data` is the end of the pipe: what is left is a line."""
        *whole, self._rest = (self._rest + data).splitlines(keepends=True) if data else (self._rest, b"")
        if self._rest.endswith(b"\n"):
            whole, self._rest = [*whole, self._rest], b""
        if len(self._rest) > LONGEST_LINE:
            whole, self._rest = [*whole, self._rest], b""
        yield from (line for line in whole if line)


class LastLines:
    """The last lines a program printed, for the message of its failure."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=_NUM_KEPT)

    def add(self, line: str) -> None:
        if line.strip():
            self._kept.append(line.rstrip()[:_KEPT_CHARS])

    def text(self) -> str:
        return "\n".join(self._kept)
