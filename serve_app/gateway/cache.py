"""Stored answers: what an entry is, what a store promises, and the store in this process.

Knows nothing of HTTP, modes' policies or engines. Time comes in as an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from serve_app.gateway.answer_headers import hit_headers

ENTRY_OVERHEAD_BYTES = 1024
"""Charged for each entry beside its body: key, headers and Python objects. Source: measured 0.9 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One whole good answer as the caller first got it: `body` is JSON, or every event of a stream."""

    mode: str
    model: str
    weights_version: str
    checkpoint_step: int | None
    stream: bool
    body: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.body) + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyEntry:
    """An entry with its response headers built, so that a hit only adds those of the request."""

    entry: Entry
    headers: list[tuple[bytes, bytes]]


def ready(entry: Entry) -> ReadyEntry:
    return ReadyEntry(entry=entry, headers=hit_headers(entry))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a mode holds in a store; None where the store cannot say."""

    num_entries: int | None
    num_bytes: int | None


class Store(Protocol):
    """Keeps answers for a time. An outage is a miss, never an exception."""

    kind: str

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> ReadyEntry | None:
        """`max_age_s`: one that was stored longer ago is a miss for this request, and stays for others."""
        ...

    async def put(self, key: bytes, entry: Entry, *, ttl_s: float) -> None: ...

    def usage(self, mode: str) -> Usage: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class _Slot:
    answer: ReadyEntry
    stored_s: float
    expires_s: float


class MemoryStore:
    """Answers in this process: bounded by bytes, the least recently used leaves first, each dies at its time.

    `on_expired` is called with the mode of every answer that died of age.
    """

    kind = "memory"

    def __init__(
        self, *, max_bytes: int, clock: Callable[[], float], on_expired: Callable[[str], None] = lambda mode: None
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._on_expired = on_expired
        self._slots: OrderedDict[bytes, _Slot] = OrderedDict()
        self._deaths: list[tuple[float, bytes]] = []
        self._usage: dict[str, tuple[int, int]] = {}
        self.num_bytes = 0

    def lookup(self, key: bytes) -> ReadyEntry | None:
        slot = self._slots.get(key)
        if slot is None:
            return None
        if slot.expires_s <= self._clock():
            self._expire(key)
            return None
        self._slots.move_to_end(key)
        return slot.answer

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> ReadyEntry | None:
        if max_age_s is not None:
            slot = self._slots.get(key)
            if slot is not None and self._clock() - slot.stored_s > max_age_s:
                return None
        return self.lookup(key)

    async def put(self, key: bytes, entry: Entry, *, ttl_s: float) -> None:
        """Store, replacing what is there. An entry larger than an eighth of the store is not kept."""
        if ttl_s <= 0 or entry.num_bytes > self._max_bytes // 8:
            return
        self._sweep()
        self._remove(key)
        now_s = self._clock()
        expires_s = now_s + ttl_s
        self._slots[key] = _Slot(ready(entry), now_s, expires_s)
        heapq.heappush(self._deaths, (expires_s, key))
        self._count(entry, 1)
        while self.num_bytes > self._max_bytes:
            self._remove(next(iter(self._slots)))

    def usage(self, mode: str) -> Usage:
        self._sweep()
        num_entries, num_bytes = self._usage.get(mode, (0, 0))
        return Usage(num_entries=num_entries, num_bytes=num_bytes)

    async def aclose(self) -> None:
        self._slots.clear()
        self._deaths.clear()
        self._usage.clear()
        self.num_bytes = 0

    def _sweep(self) -> None:
        """Drop what has died. Marks of entries that were replaced or evicted are passed over."""
        now_s = self._clock()
        while self._deaths and self._deaths[0][0] <= now_s:
            died_s, key = heapq.heappop(self._deaths)
            slot = self._slots.get(key)
            if slot is not None and slot.expires_s == died_s:
                self._expire(key)
        if len(self._deaths) > 64 and len(self._deaths) > 2 * len(self._slots):
            self._deaths = [(slot.expires_s, key) for key, slot in self._slots.items()]
            heapq.heapify(self._deaths)

    def _expire(self, key: bytes) -> None:
        self._on_expired(self._slots[key].answer.entry.mode)
        self._remove(key)

    def _remove(self, key: bytes) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._count(slot.answer.entry, -1)

    def _count(self, entry: Entry, sign: int) -> None:
        num_entries, num_bytes = self._usage.get(entry.mode, (0, 0))
        self._usage[entry.mode] = (num_entries + sign, num_bytes + sign * entry.num_bytes)
        self.num_bytes += sign * entry.num_bytes
