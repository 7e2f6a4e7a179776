"""Online placement that may move a few of those that lie already, when an ask would be refused otherwise.

One that lies moves to another node and the ask takes its place: one move wins all that the ask wants. The smallest one
that serves is moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from placement.ask import Ask, NoSeat, Seat
from placement.online import OnlinePlacer


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An ask that lay at `before` lies at `after` from now on."""

    ask: Ask
    before: Seat
    after: Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where the ask lies, and the move that made room for it, if one was needed."""

    seat: Seat
    move: Move | None = None


class MovingPlacer:
    """Owns `placer` and knows who lies where. Moves at most `max_moved` (a fraction) of what it has placed."""

    def __init__(self, placer: OnlinePlacer, *, max_moved: float = 0.01) -> None:
        self._placer = placer
        self._max_moved = max_moved
        self._lying: dict[Ask, list[Seat]] = defaultdict(list)
        self.num_placed = 0
        self.num_moved = 0

    def place(self, ask: Ask) -> Placed | NoSeat:
        """As `OnlinePlacer.place`, but looks for a move before it refuses."""
        answer = self._placer.place(ask)
        if isinstance(answer, Seat):
            return self._keep(ask, Placed(seat=answer))
        if not ask.num_devices or self.num_moved + 1 > self._max_moved * self.num_placed:
            return answer
        for mover, seat in self._movers(ask):
            after = self._placer.reseat(mover, seat)
            if after is not None:
                self._lying[mover].remove(seat)
                self._lying[mover].append(after)
                self.num_moved += 1
                freed = self._placer.seat_known(ask)
                assert freed is not None, "the node that was made free has no room"
                return self._keep(ask, Placed(seat=freed, move=Move(ask=mover, before=seat, after=after)))
        return answer

    def release(self, ask: Ask, seat: Seat) -> None:
        """As `OnlinePlacer.release`; `seat` is where the ask lies now."""
        self._placer.release(ask, seat)
        self._lying[ask].remove(seat)

    def _keep(self, ask: Ask, placed: Placed) -> Placed:
        self._lying[ask].append(placed.seat)
        self.num_placed += 1
        return placed

    def _movers(self, ask: Ask) -> Iterator[tuple[Ask, Seat]]:
        """Smaller ones that lie where the ask would fit in their place, and could lie elsewhere; smallest first."""
        smaller = [one for one in self._lying if one.total_device_millis < ask.total_device_millis]
        for mover in sorted(smaller, key=lambda one: (one.total_device_millis, one.cpu_millis)):
            if self._placer.has_room(mover):
                fitting = (seat for seat in self._lying[mover] if self._placer.would_fit(ask, mover, seat))
                yield from ((mover, seat) for seat in list(fitting))
