"""Temporary places: where a replica could stay for a while on its way from one plan to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import nlargest
from itertools import combinations, islice

from placement.changes import Change, Copy, Rates, copy_of
from placement.demand import Demand
from placement.feasible import is_of_type, is_usable
from placement.inventory import Inventory, Node
from placement.moves import Board
from placement.occupancy import Occupancy

MAX_PLACES = 6
"""Temporary places of one replica, those with the most room as things are first."""
MAX_LOOKED_AT = 64
MAX_LOOKED_AT_PER_NODE = 16

Place = tuple[str, tuple[str, ...]]
"""A node and devices of it."""


def find_temporary_places(board: Board, demands: Sequence[Demand], rates: Rates) -> None:
    """Gives the changes of the board the places they could stay at for a while: where they fit beside all that stays.

    A newcomer may need one too, to answer for its model while another replica of it is moved in turn.
    """
    asked = {demand.model: demand for demand in demands}
    empty, roomiest = Occupancy(board.ground), _Roomiest(board)
    for index, change in enumerate(board.changes):
        if change.new and change.model in board.kept:
            copies = _copies(change, roomiest.of(asked[change.model]), asked[change.model], rates)
            board.away[index] = tuple(islice(filter(empty.admits, copies), MAX_PLACES))


def _copies(change: Change, places: Sequence[Place], demand: Demand, rates: Rates) -> Iterator[Copy]:
    assert change.new, "only what is wanted goes through a temporary place"
    taken = [{*copy.devices} for copy in (change.old, change.new) if copy]
    for node, devices in places:
        if {*devices} not in taken:
            yield copy_of(replace(change.new.placement, node=node, devices=devices), demand, rates)


class _Roomiest:
    """The device sets with the most room before anything moves, found once for all demands that may use the same."""

    def __init__(self, board: Board) -> None:
        self._inventory: Inventory = board.inventory
        crowded = board.occupancy(board.first())
        self._rooms = {device.id: crowded.left_bytes(device.id) for device in board.inventory.devices}
        self._found: dict[tuple[int, tuple[str, ...]], list[Place]] = {}

    def of(self, demand: Demand) -> Sequence[Place]:
        key = demand.tensor_parallel, demand.device_types
        if key not in self._found:
            places = (place for node in self._inventory.nodes for place in _sets(node, demand, self._rooms))
            self._found[key] = nlargest(
                MAX_LOOKED_AT, places, key=lambda place: min(self._rooms[device] for device in place[1])
            )
        return self._found[key]


def _sets(node: Node, demand: Demand, rooms: Mapping[str, int]) -> Iterator[Place]:
    usable = [d.id for d in node.devices if is_usable(d) and is_of_type(d.product, demand.device_types)]
    roomy = sorted(usable, key=lambda device: -rooms[device])
    for devices in islice(combinations(roomy, demand.tensor_parallel), MAX_LOOKED_AT_PER_NODE):
        yield node.name, tuple(name for name in usable if name in devices)
