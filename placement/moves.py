"""The states between two plans and the single actions that lead from one to the next: what both searches stand on.

A state gives every change one mark: OLD runs, OUT (nothing runs), NEW runs, or AWAY + k: it runs at its k-th temporary
place. As soon as a change's next copy runs, the one before it is stopped: it only takes room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from placement.changes import Change, Copy, Difference
from placement.inventory import Inventory
from placement.occupancy import Ground, Occupancy

OLD, OUT, NEW, AWAY = 0, 1, 2, 3

State = tuple[int, ...]


class ActionKind(StrEnum):
    START = "start"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One start or stop of one engine. `price_s` is 0.0 for a stop.

    `temporary`: the place is neither that of the old plan nor that of the new one. `interrupts`: with this stop the
    last running replica of a model goes that the new plan still serves.
    """

    kind: ActionKind
    replica: str
    model: str
    node: str
    devices: tuple[str, ...]
    price_s: float
    temporary: bool = False
    interrupts: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """From one state to the next: `starts` and `stops` are copies, in this order when both are there."""

    index: int
    mark: int
    starts: Copy | None
    stops: Copy | None


class Board:
    """The changes, their temporary places, and what every state means. Itself without state."""

    def __init__(self, difference: Difference, inventory: Inventory, headroom: float) -> None:
        self.changes = difference.changes
        self.inventory = inventory
        self.ground = Ground(inventory, difference.stays, headroom)
        self.away: list[tuple[Copy, ...]] = [() for _ in self.changes]
        self._steady = Counter(copy.placement.model for copy in difference.stays)
        then = {copy.placement.model for copy in difference.stays}
        then |= {change.model for change in self.changes if change.new}
        now = {change.model for change in self.changes if change.old} | set(self._steady) | difference.down
        self.kept = frozenset(now & then)
        """Models that ran and are wanted: their service can be interrupted."""
        self.priority = {change.model: change.priority for change in self.changes}

    def first(self) -> State:
        return tuple(OLD if change.old else OUT for change in self.changes)

    def last(self) -> State:
        return tuple(NEW if change.new else OUT for change in self.changes)

    def copies(self, state: State) -> Iterator[Copy]:
        for index, mark in enumerate(state):
            copy = self.copy(index, mark)
            if copy:
                yield copy

    def copy(self, index: int, mark: int) -> Copy | None:
        """The copy that runs under this mark; None for OUT."""
        if mark >= AWAY:
            return self.away[index][mark - AWAY]
        return {OLD: self.changes[index].old, OUT: None, NEW: self.changes[index].new}[mark]

    def occupancy(self, state: State) -> Occupancy:
        return Occupancy(self.ground, self.copies(state))

    def num_serving(self, state: State) -> Counter[str]:
        """Running replicas by model."""
        return self._steady + Counter(self.changes[i].model for i, mark in enumerate(state) if self.copy(i, mark))

    def starts(self, index: int, mark: int) -> Iterator[Move]:
        """Every start this change could make next, room or not; what it leaves is stopped."""
        change, here = self.changes[index], self.copy(index, mark)
        if change.new and mark != NEW:
            yield Move(index, NEW, change.new, here)
        if change.new and mark == (OLD if change.old else OUT):
            for number, copy in enumerate(self.away[index]):
                yield Move(index, AWAY + number, copy, here)

    def stop(self, index: int, mark: int) -> Move | None:
        """The stop without a start before it, None where nothing runs or all is as wanted."""
        here = self.copy(index, mark)
        return Move(index, OUT, None, here) if here and mark != NEW else None

    def actions(self, move: Move, mark: int, *, num_serving: int) -> tuple[Action, ...]:
        """What is done. Before it the change has this `mark` and its model `num_serving` running replicas."""
        change, found = self.changes[move.index], list[Action]()
        if move.starts:
            found.append(self._action(ActionKind.START, change, move.starts, temporary=move.mark >= AWAY))
        if move.stops:
            stop = self._action(ActionKind.STOP, change, move.stops, temporary=mark >= AWAY)
            last_one = num_serving == 1 and not move.starts
            found.append(replace(stop, interrupts=last_one and change.model in self.kept))
        return tuple(found)

    def _action(self, kind: ActionKind, change: Change, copy: Copy, *, temporary: bool) -> Action:
        return Action(
            kind=kind,
            replica=change.replica,
            model=change.model,
            node=copy.node,
            devices=copy.devices,
            price_s=copy.price_s if kind is ActionKind.START else 0.0,
            temporary=temporary,
        )


def after(state: State, move: Move) -> State:
    return (*state[: move.index], move.mark, *state[move.index + 1 :])
