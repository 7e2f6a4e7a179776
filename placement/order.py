"""The best order of a few changes, by search over all states: A* with costs compared one after the other.

Cost, none traded for a later one: for each priority from the highest, how often and then how long a model has no
running replica; then seconds of loading, so that a detour is made only to spare an interruption; then replicas that
are away between stop and start though their model is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from placement.moves import NEW, OLD, Board, Move, State, after
from placement.occupancy import Occupancy

Cost = tuple[float, ...]

MAX_STATES = 10_000
"""States looked at before a search gives up; about a second. Without temporary places 8 changes have 6,561."""


class OrderSearch:
    """One search over one board; `moves` are the best ones, None when the limit was reached first."""

    def __init__(self, board: Board) -> None:
        self._board = board
        levels = sorted({board.priority[change.model] for change in board.changes}, reverse=True)
        self._place_of = {priority: 2 * number for number, priority in enumerate(levels)}
        self._zero: Cost = (0.0,) * (2 * len(levels) + 2)
        self._prices = [change.new.price_s if change.new else 0.0 for change in board.changes]
        self.moves, self._cost = self._search()

    @property
    def num_interruptions(self) -> int:
        return int(sum(self._cost[: len(self._zero) - 2 : 2]))

    def _search(self) -> tuple[tuple[Move, ...] | None, Cost]:
        first, last = self._board.first(), self._board.last()
        costs, came_by, done = {first: self._zero}, dict[State, tuple[State, Move]](), set[State]()
        tie = count()
        heap = [(self._at_least(self._zero, first), next(tie), first)]
        while heap and len(done) < MAX_STATES:
            state = heappop(heap)[-1]
            if state == last:
                return tuple(reversed([*_way_back(came_by, state)])), costs[state]
            if state in done:
                continue
            done.add(state)
            for move, cost in self._next(state, costs[state]):
                then = after(state, move)
                if then not in costs or cost < costs[then]:
                    costs[then], came_by[then] = cost, (state, move)
                    heappush(heap, (self._at_least(cost, then), next(tie), then))
        return None, self._zero

    def _next(self, state: State, cost: Cost) -> Iterator[tuple[Move, Cost]]:
        occupancy, serving = self._board.occupancy(state), self._board.num_serving(state)
        for index, mark in enumerate(state):
            for move in _moves(self._board, index, mark, occupancy):
                yield move, self._cost_with(cost, move, serving)

    def _cost_with(self, cost: Cost, move: Move, serving: Counter[str]) -> Cost:
        sums, change = [*cost], self._board.changes[move.index]
        if move.starts:
            sums[-2] += move.starts.price_s
            for model in self._board.kept:
                if not serving[model]:
                    sums[self._place_of[self._board.priority[model]] + 1] += move.starts.price_s
        elif change.model in self._board.kept:
            sums[self._place_of[change.priority]] += serving[change.model] == 1
            sums[-1] += change.new is not None
        return tuple(sums)

    def _at_least(self, cost: Cost, state: State) -> Cost:
        """The cost of the whole way, at least: every wanted copy that does not run yet has to be loaded."""
        rest = sum(price for mark, price in zip(state, self._prices, strict=True) if mark != NEW)
        return (*cost[:-2], cost[-2] + rest, cost[-1])


def _moves(board: Board, index: int, mark: int, occupancy: Occupancy) -> Iterator[Move]:
    yield from (move for move in board.starts(index, mark) if move.starts and occupancy.admits(move.starts))
    stop = board.stop(index, mark) if mark == OLD else None
    if stop:
        yield stop


def _way_back(came_by: dict[State, tuple[State, Move]], state: State) -> Iterator[Move]:
    while state in came_by:
        state, move = came_by[state]
        yield move
