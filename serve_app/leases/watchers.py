"""Who is told what happens to leases, as it happens: bounded queues, and a count of what a slow watcher missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from placement.lease_index import Change, Happening

MAX_WATCHERS: Final = 256
_MAX_WAITING: Final = 1024


@dataclass(frozen=True, slots=True)
class Told:
    """`num_lost`: changes just before this one that did not fit into the watcher's queue."""

    change: Change
    num_lost: int


class Watcher:
    """One reader; iterate over it. `client`, `tenant`: only that client's or tenant's leases, all when None."""

    def __init__(self, client: str | None, tenant: str | None) -> None:
        self._client = client
        self._tenant = tenant
        self._waiting: deque[Change] = deque(maxlen=_MAX_WAITING)
        self._num_lost = 0
        self._arrived = asyncio.Event()
        self._is_ended = False

    def tell(self, change: Change) -> None:
        lease = change.lease
        if self._client not in (None, lease.client) or self._tenant not in (None, lease.tenant):
            return
        self._num_lost += len(self._waiting) == _MAX_WAITING
        self._waiting.append(change)
        self._arrived.set()

    def end(self) -> None:
        """Iterating stops after what is waiting."""
        self._is_ended = True
        self._arrived.set()

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> Told:
        while not self._waiting:
            if self._is_ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        told = Told(self._waiting.popleft(), self._num_lost)
        self._num_lost = 0
        return told


class Watchers:
    def __init__(self) -> None:
        self._all: set[Watcher] = set()

    @contextlib.contextmanager
    def watching(self, client: str | None, *, tenant: str | None = None) -> Iterator[Watcher | None]:
        """None when there are as many watchers as there may be."""
        if len(self._all) >= MAX_WATCHERS:
            yield None
            return
        watcher = Watcher(client, tenant)
        self._all.add(watcher)
        try:
            yield watcher
        finally:
            self._all.discard(watcher)

    def end(self) -> None:
        for watcher in self._all:
            watcher.end()

    def tell(self, changes: Iterable[Change]) -> None:
        if not self._all:
            return
        for change in changes:
            if change.kind is Happening.FORGOTTEN:
                continue
            for watcher in self._all:
                watcher.tell(change)
