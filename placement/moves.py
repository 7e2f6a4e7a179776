"""The states between two plans and the single actions that lead from one to the next: what both searches stand on.

A state gives every change one mark: OLD runs, OUT (nothing runs), NEW runs, or AWAY + k: it runs at its k-th temporary
place. As soon as a change's next copy runs, the one before it is stopped: it only takes room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations, islice

from placement.changes import Change, Copy, Difference, Rates, copy_of
from placement.demand import Demand
from placement.feasible import is_of_type, is_usable
from placement.inventory import Inventory, Node
from placement.occupancy import Ground, Occupancy
from placement.plan import Placement

OLD, OUT, NEW, AWAY = 0, 1, 2, 3

State = tuple[int, ...]

MAX_TEMPORARY_PLACES = 6
"""Temporary places tried for one replica, those with the most room as things are first."""
MAX_PLACES_LOOKED_AT = 64


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


def find_temporary_places(board: Board, demands: Sequence[Demand], rates: Rates) -> None:
    """Gives the changes of the board the places they could stay at for a while: where they fit beside all that stays.

    A newcomer may need one too, to answer for its model while another replica of it is moved in turn.
    """
    asked = {demand.model: demand for demand in demands}
    empty, crowded = Occupancy(board.ground), board.occupancy(board.first())
    for index, change in enumerate(board.changes):
        if change.new and change.model in board.kept:
            taken = [{*copy.devices} for copy in (change.old, change.new) if copy]
            places = (
                copy
                for copy in _copies_elsewhere(board.inventory, change.new.placement, asked[change.model], rates)
                if {*copy.devices} not in taken and empty.admits(copy)
            )
            roomy = sorted(islice(places, MAX_PLACES_LOOKED_AT), key=lambda copy: -_room(crowded, copy))
            board.away[index] = tuple(roomy[:MAX_TEMPORARY_PLACES])


def _room(occupancy: Occupancy, copy: Copy) -> int:
    return min(occupancy.left_bytes(device) for device in copy.devices)


def _copies_elsewhere(inventory: Inventory, wanted: Placement, demand: Demand, rates: Rates) -> Iterator[Copy]:
    for node in inventory.nodes:
        for devices in _sets(node, demand):
            yield copy_of(replace(wanted, node=node.name, devices=devices), demand, rates)


def _sets(node: Node, demand: Demand) -> Iterable[tuple[str, ...]]:
    names = [d.id for d in node.devices if is_usable(d) and is_of_type(d.product, demand.device_types)]
    return islice(combinations(names, demand.tensor_parallel), MAX_PLACES_LOOKED_AT)
