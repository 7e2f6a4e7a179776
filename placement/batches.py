"""From one order of actions to batches whose actions may run at the same time, in any order among themselves.

A batch is safe however its actions fall in time: its starts fit beside everything that ran before it, its own stops
not counted; a model keeps a running replica with all the stops done and none of the starts. On one device there is
one start in a batch and then no stop, because an engine that starts measures the whole device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from placement.changes import Copy
from placement.moves import Action, ActionKind, Board, Move
from placement.occupancy import Occupancy

LOOK_AHEAD = 64
"""Actions looked at for one batch."""

Timed = tuple[Action, Copy]


def batches(board: Board, moves: Sequence[Move]) -> tuple[tuple[Action, ...], ...]:
    """Every action of the moves once; an action never runs before one it depends on."""
    waiting, made = [*_timed(board, moves)], list[tuple[Action, ...]]()
    running, serving = [*board.copies(board.first())], board.num_serving(board.first())
    while waiting:
        batch = _Batch(board, running, serving)
        held_back = [timed for timed in waiting[:LOOK_AHEAD] if not batch.takes(timed)]
        assert batch.taken, "the first action of a sound order may always run"
        waiting = held_back + waiting[LOOK_AHEAD:]
        for action, copy in batch.taken:
            is_start = action.kind is ActionKind.START
            (running.append if is_start else running.remove)(copy)
            serving[action.model] += 1 if is_start else -1
        made.append(tuple(action for action, _ in batch.taken))
    return tuple(made)


def _timed(board: Board, moves: Sequence[Move]) -> Iterator[Timed]:
    marks, serving = [*board.first()], board.num_serving(board.first())
    for move in moves:
        model, copies = board.changes[move.index].model, (copy for copy in (move.starts, move.stops) if copy)
        actions = board.actions(move, marks[move.index], num_serving=serving[model])
        yield from zip(actions, copies, strict=True)
        marks[move.index] = move.mark
        serving[model] += (move.starts is not None) - (move.stops is not None)


class _Batch:
    """One batch while it is filled. `_occupancy` has its starts already and its stops still."""

    def __init__(self, board: Board, running: Sequence[Copy], serving: Counter[str]) -> None:
        self.taken = list[Timed]()
        self._kept, self._serving = board.kept, serving.copy()
        self._occupancy = Occupancy(board.ground, running)
        self._starting, self._stopping = set[str](), set[str]()
        self._waiting = _Waiting()

    def takes(self, timed: Timed) -> bool:
        """Takes the action if it may run now; one that waits holds back all that may depend on it."""
        action, copy = timed
        if self._waiting.holds_back(timed) or not self._may_run(action, copy):
            self._waiting.add(timed)
            return False
        self.taken.append(timed)
        if action.kind is ActionKind.START:
            self._occupancy.add(copy)
            self._starting.update(copy.devices)
        else:
            self._serving[action.model] -= 1
            self._stopping.update(copy.devices)
        return True

    def _may_run(self, action: Action, copy: Copy) -> bool:
        done = [taken for taken, _ in self.taken]
        if any(taken.replica == action.replica for taken in done) or not self._starting.isdisjoint(copy.devices):
            return False
        if action.kind is ActionKind.START:
            ends_service = any(taken.interrupts for taken in done)
            return not ends_service and self._stopping.isdisjoint(copy.devices) and self._occupancy.admits(copy)
        if action.interrupts:  # never before its turn, and never beside a start, which takes time
            return not self._starting and self._waiting.is_empty
        return self._serving[action.model] > 1 or action.model not in self._kept


class _Waiting:
    """What the actions that wait have to do with: replicas, models, devices, nodes."""

    def __init__(self) -> None:
        self._replicas, self._models, self._devices = set[str](), set[str](), set[str]()
        self._nodes, self._asked_nodes = set[str](), set[str]()

    @property
    def is_empty(self) -> bool:
        return not self._replicas

    def add(self, timed: Timed) -> None:
        action, copy = timed
        self._replicas.add(action.replica)
        self._models.add(action.model)
        self._devices.update(copy.devices)
        self._nodes.add(copy.node)
        if copy.takes_of_node:
            self._asked_nodes.add(copy.node)

    def holds_back(self, timed: Timed) -> bool:
        """A start may overtake others of its model, a stop may not: it could have waited for one of them."""
        action, copy = timed
        by_model = action.kind is ActionKind.STOP and action.model in self._models
        by_node = copy.node in (self._nodes if copy.takes_of_node else self._asked_nodes)
        return by_model or by_node or action.replica in self._replicas or not self._devices.isdisjoint(copy.devices)
