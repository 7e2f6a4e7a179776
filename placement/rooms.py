"""Free room of all nodes, kept so that the best node for an ask is found without looking at each.

Nodes with the same room are one *state*: scored once per ask, and the score is remembered with it. A placement changes
the state of one node. Knows the rules of what fits; what is better it is told by a `Score`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from placement.ask import WHOLE_DEVICE_MILLIS, Ask, EmptyNode, Seat, check_node
from placement.errors import InvalidProblem
from placement.lookahead import Gaps
from placement.plan import Cause

MAX_ASKS = 10_000
"""Different asks that scores are remembered for; past it all are forgotten."""


class Room(NamedTuple):
    """What is free on a node: `gaps` are the free millis of its devices, ascending, without the full ones."""

    device_type: str
    gaps: Gaps
    cpu_millis: int
    host_memory_bytes: int


class Option(NamedTuple):
    """A way to lie in a room: `gap` is the free part of each device taken from, 0 where none is wanted."""

    score: float
    gap: int


Score = Callable[[Room, Ask], Option]
"""The best way to lie in a room that the ask fits into; the larger score wins."""


class _State:
    """All nodes with the same room by number, a heap. `options` by number of the ask, the cause where it is unfit."""

    __slots__ = ("members", "options", "room")

    def __init__(self, room: Room) -> None:
        self.room = room
        self.members: list[int] = []
        self.options: dict[int, Option | Cause] = {}


class Rooms:
    """Owns the free room of `nodes`; between equal scores the earlier node wins.

    Raises InvalidProblem for nodes that contradict themselves.
    """

    def __init__(self, nodes: Sequence[EmptyNode], score: Score) -> None:
        for node in nodes:
            check_node(node)
        if len({node.name for node in nodes}) < len(nodes):
            raise InvalidProblem("Two nodes have the same name. Give each its own.")
        self.nodes = tuple(nodes)
        self._score = score
        self._numbers = {node.name: number for number, node in enumerate(nodes)}
        self._devices = [[WHOLE_DEVICE_MILLIS] * node.num_devices for node in nodes]
        self._ask_numbers: dict[Ask, int] = {}
        self._states: dict[Room, _State] = {}
        self._state_of = [self._enter(number, _empty_room(node)) for number, node in enumerate(nodes)]

    def take(self, ask: Ask) -> Seat | None:
        """The best seat, taken at once; None if no node has the room."""
        if ask not in self._ask_numbers and len(self._ask_numbers) >= MAX_ASKS:
            self.forget_scores()
        number = self._ask_numbers.setdefault(ask, len(self._ask_numbers))
        found = self._best(number, ask)
        if found is None:
            return None
        state, option = found
        node = state.members[0]
        devices = _pick(self._devices[node], ask, option.gap)
        self._change(node, ask, devices, sign=-1)
        return Seat(node=self.nodes[node].name, devices=devices)

    def give_back(self, ask: Ask, seat: Seat) -> None:
        """Frees what `ask` took at `seat`. Raises InvalidProblem if that much was not taken there."""
        number = self._numbers.get(seat.node)
        if number is None or len(seat.devices) != ask.num_devices or not self._was_taken(number, ask, seat.devices):
            raise InvalidProblem(f"{ask} does not lie at {seat}. Release each ask once, where it was placed.")
        self._change(number, ask, seat.devices, sign=1)

    def has_room(self, ask: Ask) -> bool:
        """True if the ask fits somewhere."""
        return any(missing_cause(room, ask) is None for room in self._states)

    def room_without(self, ask: Ask, seat: Seat) -> Room:
        """The room of a node if what `ask` took at `seat` were given back."""
        number = self._numbers[seat.node]
        free = list(self._devices[number])
        for device in seat.devices:
            free[device] += ask.device_millis
        return _grown(self._state_of[number].room, ask, free, sign=1)

    def free_device_millis(self, node: str) -> tuple[int, ...]:
        """What is free of each device of a node, by index."""
        return tuple(self._devices[self._numbers[node]])

    def causes(self, ask: Ask) -> tuple[tuple[Cause, int], ...]:
        """Nodes that lack room for the ask, counted by the first thing they lack."""
        number, counts = self._ask_numbers.get(ask, -1), Counter[Cause]()
        for state in self._states.values():
            cause = state.options.get(number) or missing_cause(state.room, ask)
            if isinstance(cause, Cause):
                counts[cause] += len(state.members)
        return tuple((cause, counts[cause]) for cause in Cause if counts[cause])

    def forget_scores(self) -> None:
        """To be called when the same room is worth something else from now on."""
        self._ask_numbers.clear()
        for state in self._states.values():
            state.options.clear()

    def _best(self, number: int, ask: Ask) -> tuple[_State, Option] | None:
        best_state, best, best_score = None, None, float("-inf")
        for state in self._states.values():
            try:
                option = state.options[number]
            except KeyError:
                option = state.options[number] = missing_cause(state.room, ask) or self._score(state.room, ask)
            if isinstance(option, Cause) or option.score < best_score:
                continue
            if best_state is None or option.score > best_score or state.members[0] < best_state.members[0]:
                best_state, best, best_score = state, option, option.score
        return (best_state, best) if best_state is not None and best is not None else None

    def _change(self, number: int, ask: Ask, devices: tuple[int, ...], *, sign: int) -> None:
        """Takes (-1) or gives back (+1) what the ask wants, and moves the node to its new state."""
        free = self._devices[number]
        for device in devices:
            free[device] += sign * ask.device_millis
        self._state_of[number] = self._enter(number, _grown(self._leave(number), ask, free, sign=sign))

    def _leave(self, number: int) -> Room:
        state = self._state_of[number]
        if state.members[0] == number:
            heappop(state.members)
        else:
            state.members.remove(number)
            heapify(state.members)
        if not state.members:
            del self._states[state.room]
        return state.room

    def _enter(self, number: int, room: Room) -> _State:
        state = self._states.get(room)
        if state is None:
            state = self._states[room] = _State(room)
        heappush(state.members, number)
        return state

    def _was_taken(self, number: int, ask: Ask, devices: tuple[int, ...]) -> bool:
        room, node, free = self._state_of[number].room, self.nodes[number], self._devices[number]
        return (
            room.cpu_millis + ask.cpu_millis <= node.cpu_millis
            and room.host_memory_bytes + ask.host_memory_bytes <= node.host_memory_bytes
            and len(set(devices)) == len(devices)
            and all(0 <= device < len(free) for device in devices)
            and all(free[device] + ask.device_millis <= WHOLE_DEVICE_MILLIS for device in devices)
        )


def missing_cause(room: Room, ask: Ask) -> Cause | None:
    """The first thing a node with this room lacks for the ask, None if it fits."""
    if ask.num_devices and ask.device_types and room.device_type not in ask.device_types:
        return Cause.WRONG_TYPE
    if ask.num_devices > len(room.gaps) or (ask.num_devices and room.gaps[-ask.num_devices] < ask.device_millis):
        return Cause.NO_ROOM
    if ask.cpu_millis > room.cpu_millis:
        return Cause.NO_CPU
    return Cause.NO_HOST_MEMORY if ask.host_memory_bytes > room.host_memory_bytes else None


def gap_choices(gaps: Gaps, ask: Ask) -> Iterable[int]:
    """The gaps an ask that fits may be taken from; whole devices are all alike."""
    if ask.is_part_of_a_device:
        return {gap for gap in gaps if gap >= ask.device_millis}
    return (ask.device_millis,)


def gaps_after(gaps: Gaps, ask: Ask, gap: int) -> Gaps:
    """What is left when the ask is taken from devices with this much free."""
    left = list(gaps)
    for _ in range(ask.num_devices):
        left.remove(gap)
    return tuple(sorted([*left, gap - ask.device_millis])) if gap > ask.device_millis else tuple(left)


def _grown(room: Room, ask: Ask, free: Sequence[int], *, sign: int) -> Room:
    """The room of a node whose devices have so much `free` once the ask came (-1) or went (+1)."""
    return Room(
        room.device_type,
        tuple(sorted(millis for millis in free if millis)),
        room.cpu_millis + sign * ask.cpu_millis,
        room.host_memory_bytes + sign * ask.host_memory_bytes,
    )


def _empty_room(node: EmptyNode) -> Room:
    gaps = (WHOLE_DEVICE_MILLIS,) * node.num_devices
    return Room(node.device_type, gaps, node.cpu_millis, node.host_memory_bytes)


def _pick(free: Sequence[int], ask: Ask, gap: int) -> tuple[int, ...]:
    """The first devices with this much free."""
    return tuple(index for index, millis in enumerate(free) if millis == gap)[: ask.num_devices]
