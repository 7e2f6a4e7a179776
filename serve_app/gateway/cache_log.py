"""A log of cacheable requests for `headroom cache simulate`: when, mode, key, size. Keys are salted hashes, no prompts.

Written by a store around the real one, so that the road of a request knows nothing of it. Off by default, bounded.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, Final

from serve_app.gateway.cache import Entry, ReadyEntry, Store, Usage

HEADER: Final = "# headroom cache log 1: seconds, mode, key, bytes"
_KEY_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class Lookup:
    """One request whose answer may be stored. `num_bytes` is what the answer takes in a store."""

    at_s: float
    mode: str
    key: str
    num_bytes: int


class LogUnreadable(ValueError):
    """A line is not of this format; says which."""


class RecordingStore:
    """A `Store` that writes a line for every hit and every stored answer, until `max_bytes` are written.

    A miss is written when its answer is stored: answers that may not be stored are no traffic for a cache. `clock` is
    monotonic. The salt is of this process alone, so nobody can look up whether a prompt was asked.
    """

    def __init__(self, store: Store, log: IO[str], *, clock: Callable[[], float], max_bytes: int) -> None:
        self.kind = store.kind
        self._store = store
        self._log = log
        self._clock = clock
        self._salt = secrets.token_bytes(32)
        self._num_left = max_bytes
        self._write(HEADER + "\n")

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> ReadyEntry | None:
        found = await self._store.get(key, max_age_s=max_age_s)
        if found is not None:
            self._line(key, found.entry)
        return found

    async def put(self, key: bytes, entry: Entry, *, ttl_s: float) -> None:
        self._line(key, entry)
        await self._store.put(key, entry, ttl_s=ttl_s)

    def usage(self, mode: str) -> Usage:
        return self._store.usage(mode)

    async def aclose(self) -> None:
        self._log.close()
        await self._store.aclose()

    def _line(self, key: bytes, entry: Entry) -> None:
        name = blake2b(key, key=self._salt, digest_size=_KEY_BYTES).hexdigest()
        self._write(f"{self._clock():.3f}\t{entry.mode}\t{name}\t{entry.num_bytes}\n")

    def _write(self, line: str) -> None:
        """The file's own buffer takes most lines; a full log writes nothing more."""
        if len(line) <= self._num_left and not self._log.closed:
            self._num_left -= len(line)
            self._log.write(line)


def read_log(lines: Iterable[str]) -> Iterator[Lookup]:
    """Raises: LogUnreadable. Logs of several gateways may be joined; what is read is not sorted."""
    for number, line in enumerate(lines, start=1):
        if not line.startswith("#") and line.strip():
            yield _lookup(line.rstrip("\n"), number)


def _lookup(line: str, number: int) -> Lookup:
    try:
        at_s, mode, key, num_bytes = line.split("\t")
        lookup = Lookup(float(at_s), mode, key, int(num_bytes))
    except ValueError:
        raise LogUnreadable(f"Line {number} is not `seconds, mode, key, bytes` apart by tabs.") from None
    if not (0 <= lookup.at_s < float("inf") and lookup.num_bytes >= 0 and mode and key):
        raise LogUnreadable(f"Line {number} has a time or a size below zero, or an empty mode or key.")
    return lookup
