"""Room in front of each model: bounded requests in flight, a bounded queue, fair turns among tenants.

Who is admitted goes at once; who waits is called when somebody leaves. The waiting is limited by its owner, who
leaves the queue when the time is up. Pure but for the call. Time comes in as an argument.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Final

MAX_RETRY_S: Final = 60
_PACE_WINDOW_S: Final = 2.0
"""Requests leave in bursts, as batches end: a pace is only what some time shows."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place. `go` is called once it may start, possibly from within `enter`."""

    room: str
    tenant: str
    go: Callable[[], None]
    is_in: bool = False
    is_over: bool = False


@dataclass(slots=True)
class _Room:
    limit: int = 0
    num_in: int = 0
    queues: OrderedDict[str, deque[Ticket]] = field(default_factory=OrderedDict)
    """By tenant, the one whose turn is next first; none is empty."""
    num_queued: int = 0
    paced_from_s: float | None = None
    num_left: int = 0
    gap_s: float = 0.0
    """Mean time between two who left while others waited; 0 before any."""


class Bulkheads:
    """`max_queued` bounds each room; one tenant may hold all of it only while it is alone there."""

    def __init__(self, *, max_queued: int, on_queued: Callable[[str, int], None] = lambda room, num: None) -> None:
        self._max_queued = max_queued
        self._on_queued = on_queued
        self._rooms: dict[str, _Room] = {}

    def num_in(self, room: str) -> int:
        found = self._rooms.get(room)
        return found.num_in if found else 0

    def num_queued(self, room: str) -> int:
        found = self._rooms.get(room)
        return found.num_queued if found else 0

    def has_room(self, room: str, tenant: str) -> bool:
        """A tenant is refused when the queue is full, or when it holds its part of a queue that others wait in too."""
        found = self._rooms.get(room)
        if found is None or found.num_queued == 0:
            return self._max_queued > 0 or found is None or found.num_in < found.limit
        if found.num_queued >= self._max_queued:
            return False
        own = len(found.queues.get(tenant, ()))
        others = len(found.queues.keys() - {tenant})
        return own < max(1, self._max_queued // (others + 1))

    def wait_s(self, room: str) -> float:
        """How long the next one would wait by the pace of late; 0 where nothing is known."""
        found = self._rooms.get(room)
        return (found.num_queued + 1) * found.gap_s if found else 0.0

    def retry_after_s(self, room: str) -> int:
        return min(MAX_RETRY_S, max(1, ceil(self.wait_s(room))))

    def enter(self, room: str, *, limit: int, ticket: Ticket) -> None:
        """Go in or queue; the caller has asked `has_room` before."""
        found = self._rooms.setdefault(room, _Room())
        found.limit = limit
        if found.num_in < limit and not found.num_queued:
            self._admit(found, ticket)
            return
        found.queues.setdefault(ticket.tenant, deque()).append(ticket)
        self._queued(room, found, 1)

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """From inside or from the queue; a second time does nothing."""
        if ticket.is_over:
            return
        ticket.is_over = True
        found = self._rooms[ticket.room]
        if not ticket.is_in:
            self._unqueue(found, ticket)
            return
        found.num_in -= 1
        self._pace(found, now_s)
        while found.num_queued and found.num_in < found.limit:
            self._admit(found, self._next(ticket.room, found))

    def keep_only(self, rooms: frozenset[str]) -> None:
        """Forget rooms that are empty and gone."""
        self._rooms = {
            name: room for name, room in self._rooms.items() if name in rooms or room.num_in or room.num_queued
        }

    def _admit(self, found: _Room, ticket: Ticket) -> None:
        found.num_in += 1
        ticket.is_in = True
        ticket.go()

    def _next(self, room: str, found: _Room) -> Ticket:
        tenant, queue = found.queues.popitem(last=False)
        ticket = queue.popleft()
        if queue:
            found.queues[tenant] = queue
        self._queued(room, found, -1)
        return ticket

    def _unqueue(self, found: _Room, ticket: Ticket) -> None:
        queue = found.queues[ticket.tenant]
        queue.remove(ticket)
        if not queue:
            del found.queues[ticket.tenant]
        self._queued(ticket.room, found, -1)

    def _queued(self, room: str, found: _Room, by: int) -> None:
        found.num_queued += by
        self._on_queued(room, by)

    def _pace(self, found: _Room, now_s: float) -> None:
        if not found.num_queued or found.paced_from_s is None:
            found.paced_from_s, found.num_left = now_s if found.num_queued else None, 0
            return
        found.num_left += 1
        if now_s - found.paced_from_s >= _PACE_WINDOW_S:
            found.gap_s = (now_s - found.paced_from_s) / found.num_left
            found.paced_from_s, found.num_left = now_s, 0
