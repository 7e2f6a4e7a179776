"""An order for any number of changes: do what harms nobody, and give way a little more at each standstill.

At each turn the first of these that is possible:
1. start what fits at its wanted place, moves before newcomers, because a move also frees a place;
2. stop a replica that is to go while another of its model runs;
3. stop a replica that moves while another of its model runs;
4. move a replica that is in the way to a temporary place;
5. stop the last replica of a model, lowest priority first.
Not always the order with the fewest interruptions; `order.py` finds that where the changes are few.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from placement.moves import AWAY, NEW, OLD, Board, Move


class GreedyOrder:
    """Works on one board from its first state to its last; every turn changes a mark that never comes back."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._marks = [*board.first()]
        self._occupancy = board.occupancy(board.first())
        self._serving = board.num_serving(board.first())
        self.moves: list[Move] = []
        while tuple(self._marks) != board.last():
            if not self._start_what_fits():
                self._give_way()

    def _start_what_fits(self) -> bool:
        """Whole rounds over what is waiting, so that many changes take few rounds."""
        before = len(self.moves)
        for is_newcomer in (False, True):
            for index in self._waiting():
                move = next(self._board.starts(index, self._marks[index]))
                ready = move.starts is not None and self._occupancy.admits(move.starts)
                if ready and is_newcomer == (move.stops is None):
                    self._do(move)
            if len(self.moves) > before:
                return True
        return False

    def _give_way(self) -> None:
        move = next(chain(self._leavers(), self._movers_of_served(), self._detours(), self._last_ones()), None)
        assert move, "with everything stopped that may stop, the plan that was checked fits"
        self._do(move)

    def _leavers(self) -> Iterator[Move]:
        return (move for move in self._stops() if not self._board.changes[move.index].new and self._is_spare(move))

    def _movers_of_served(self) -> Iterator[Move]:
        return (move for move in self._stops() if self._is_in_the_way(move) and self._is_spare(move))

    def _detours(self) -> Iterator[Move]:
        for stop in self._stops():
            if self._marks[stop.index] == OLD and self._is_in_the_way(stop):
                for move in self._board.starts(stop.index, OLD):
                    if move.mark >= AWAY and move.starts and self._occupancy.admits(move.starts):
                        yield move

    def _last_ones(self) -> Iterator[Move]:
        return chain(filter(self._is_in_the_way, self._stops()), self._stops())

    def _stops(self) -> Iterator[Move]:
        """From the lowest priority up, the cheapest to start again first."""
        order = sorted(range(len(self._marks)), key=lambda i: (self._board.changes[i].priority, self._price(i), i))
        for index in order:
            move = self._board.stop(index, self._marks[index])
            if move:
                yield move

    def _price(self, index: int) -> float:
        new = self._board.changes[index].new
        return new.price_s if new else 0.0

    def _waiting(self) -> list[int]:
        """From the highest priority down, models that do not answer first."""
        changes, waiting = self._board.changes, (i for i, mark in enumerate(self._marks) if mark != NEW)
        wanted = (index for index in waiting if changes[index].new)
        return sorted(wanted, key=lambda i: (-changes[i].priority, self._serving[changes[i].model] > 0))

    def _is_spare(self, move: Move) -> bool:
        model = self._board.changes[move.index].model
        return self._serving[model] > 1 or model not in self._board.kept

    def _is_in_the_way(self, move: Move) -> bool:
        """Whether a replica, perhaps itself, waits for a device that this one lies on."""
        assert move.stops, "a stop has something to stop"
        mine, waiting = set(move.stops.devices), (self._board.changes[index].new for index in self._waiting())
        return any(copy and not mine.isdisjoint(copy.devices) for copy in waiting)

    def _do(self, move: Move) -> None:
        model = self._board.changes[move.index].model
        for copy, act, sign in ((move.starts, self._occupancy.add, 1), (move.stops, self._occupancy.remove, -1)):
            if copy:
                act(copy)
                self._serving[model] += sign
        self._marks[move.index] = move.mark
        self.moves.append(move)
