"""Online placement: asks come one by one, each gets the seat that leaves the most useful room, or a reason why none.

A decision costs well under a millisecond on a thousand nodes: nodes in the same state are scored once, a score is
remembered with its state, and a placement changes the state of one node only. Nothing that fits is ever refused.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from placement.ask import WHOLE_DEVICE_MILLIS, Ask, EmptyNode, NoSeat, Seat, check_ask, check_node
from placement.errors import InvalidProblem
from placement.lookahead import Gaps
from placement.mix import Mix
from placement.plan import Cause
from placement.refusal import CAUSE_WORDS
from placement.units import gib
from placement.worth import Tuning, Worth

FIRST_LEARNT = 32
"""Arrivals before the mix is first learnt; then again whenever their number has doubled."""

# Between seats of equal loss: the tightest device, then the tightest node, then the fewest cores left.
_TIE_GAP, _TIE_IDLE, _TIE_CPU = 1e-3, 1e-4, 1e-8


class _Option(NamedTuple):
    """A seat on any node of one state; `gap` is the free part of the device to take from, 0 where none is wanted."""

    score: float
    gap: int


class _Room(NamedTuple):
    """Free room of a node, alike for all nodes in this state."""

    device_type: str
    gaps: Gaps
    cpu_millis: int
    host_memory_bytes: int


class _State:
    """All nodes with the same room, by number, and what was computed for it.

    `options` are by number of the ask; where it does not fit, the cause stands instead.
    """

    __slots__ = ("loss_millis", "members", "options", "room")

    def __init__(self, room: _Room) -> None:
        self.room = room
        self.members: list[int] = []
        self.options: dict[int, _Option | Cause] = {}
        self.loss_millis: float | None = None


class OnlinePlacer:
    """Owns the free room of `nodes`; earlier nodes win ties. Not shared between threads.

    `known` is the workload as far as it is known before the first arrival; what arrives is added to it.
    Raises InvalidProblem for nodes that contradict themselves.
    """

    def __init__(self, nodes: Sequence[EmptyNode], *, known: Iterable[Ask] = (), tuning: Tuning | None = None) -> None:
        for node in nodes:
            check_node(node)
        if len({node.name for node in nodes}) < len(nodes):
            raise InvalidProblem("Two nodes have the same name. Give each its own.")
        self._nodes = tuple(nodes)
        self._numbers = {node.name: number for number, node in enumerate(nodes)}
        self._devices = [[WHOLE_DEVICE_MILLIS] * node.num_devices for node in nodes]
        self._states: dict[_Room, _State] = {}
        self._state_of: list[_State] = []
        for number, node in enumerate(nodes):
            self._state_of.append(self._enter(number, _empty_room(node)))
        self._tuning = tuning or Tuning()
        self._devices_by_type = Counter[str]()
        for node in nodes:
            self._devices_by_type[node.device_type] += node.num_devices
        self._mix = Mix(known)
        self._learn()

    def place(self, ask: Ask) -> Seat | NoSeat:
        """The best seat, taken at once, or why there is none. Raises InvalidProblem for an impossible ask."""
        check_ask(ask)
        self._mix.add(ask)
        if self._mix.num_seen >= self._learn_at:
            self._learn()
        state, option = self._best(ask)
        if state is None or option is None:
            return self._refuse(ask)
        number = state.members[0]
        devices = _pick(self._devices[number], ask, option.gap)
        self._change(number, ask, devices, sign=-1)
        return Seat(node=self._nodes[number].name, devices=devices)

    def release(self, ask: Ask, seat: Seat) -> None:
        """Gives back what `ask` took at `seat`. Raises InvalidProblem if that much was not taken there."""
        check_ask(ask)
        number = self._numbers.get(seat.node)
        if number is None or len(seat.devices) != ask.num_devices or not self._was_taken(number, ask, seat.devices):
            raise InvalidProblem(f"{ask} does not lie at {seat}. Release each ask once, where it was placed.")
        self._change(number, ask, seat.devices, sign=1)

    def free_device_millis(self, node: str) -> tuple[int, ...]:
        """What is free of each device of a node, by index."""
        return tuple(self._devices[self._numbers[node]])

    def _best(self, ask: Ask) -> tuple[_State | None, _Option | None]:
        number = self._ask_numbers.setdefault(ask, len(self._ask_numbers))
        best_state, best, best_score = None, None, float("-inf")
        for state in self._states.values():
            try:
                option = state.options[number]
            except KeyError:
                option = state.options[number] = self._option(state, ask)
            if isinstance(option, Cause) or option.score < best_score:
                continue
            if best_state is None or option.score > best_score or state.members[0] < best_state.members[0]:
                best_state, best, best_score = state, option, option.score
        return best_state, best

    def _option(self, state: _State, ask: Ask) -> _Option | Cause:
        """The best way to lie on a node of this state. Scores are device millis won (+) or lost (-)."""
        room = state.room
        cause = missing_cause(room, ask)
        if cause is not None:
            return cause
        if state.loss_millis is None:
            state.loss_millis = self._loss(room.device_type, room.gaps, room.cpu_millis)
        return max(self._scored(state.loss_millis, room, ask, gap) for gap in _choices(room.gaps, ask))

    def _scored(self, loss_before: float, room: _Room, ask: Ask, gap: int) -> _Option:
        gaps, cpu_millis = _gaps_after(room.gaps, ask, gap), room.cpu_millis - ask.cpu_millis
        won = loss_before - self._loss(room.device_type, gaps, cpu_millis)
        ties = _TIE_GAP * (gap - ask.device_millis) + _TIE_IDLE * sum(gaps) + _TIE_CPU * cpu_millis
        return _Option(won - self._worth.price_millis(room.device_type, ask) - ties, gap)

    def _loss(self, device_type: str, gaps: Gaps, cpu_millis: int) -> float:
        return self._worth.loss_millis(device_type, gaps, cpu_millis)

    def _learn(self) -> None:
        """Every score rests on the mix, so all are forgotten."""
        self._ask_numbers: dict[Ask, int] = {}
        self._learn_at = max(FIRST_LEARNT, 2 * self._mix.num_seen)
        self._worth = Worth(self._mix, self._devices_by_type, self._tuning)
        for state in self._states.values():
            state.options.clear()
            state.loss_millis = None

    def _change(self, number: int, ask: Ask, devices: tuple[int, ...], *, sign: int) -> None:
        """Takes (-1) or gives back (+1) what the ask wants, and moves the node to its new state."""
        free = self._devices[number]
        for device in devices:
            free[device] += sign * ask.device_millis
        old = self._leave(number)
        room = _Room(
            old.device_type,
            tuple(sorted(millis for millis in free if millis)),
            old.cpu_millis + sign * ask.cpu_millis,
            old.host_memory_bytes + sign * ask.host_memory_bytes,
        )
        self._state_of[number] = self._enter(number, room)

    def _leave(self, number: int) -> _Room:
        state = self._state_of[number]
        if state.members[0] == number:
            heappop(state.members)
        else:
            state.members.remove(number)
            heapify(state.members)
        if not state.members:
            del self._states[state.room]
        return state.room

    def _enter(self, number: int, room: _Room) -> _State:
        state = self._states.get(room)
        if state is None:
            state = self._states[room] = _State(room)
        heappush(state.members, number)
        return state

    def _was_taken(self, number: int, ask: Ask, devices: tuple[int, ...]) -> bool:
        room, node, free = self._state_of[number].room, self._nodes[number], self._devices[number]
        return (
            room.cpu_millis + ask.cpu_millis <= node.cpu_millis
            and room.host_memory_bytes + ask.host_memory_bytes <= node.host_memory_bytes
            and len(set(devices)) == len(devices)
            and all(0 <= device < len(free) for device in devices)
            and all(free[device] + ask.device_millis <= WHOLE_DEVICE_MILLIS for device in devices)
        )

    def _refuse(self, ask: Ask) -> NoSeat:
        number, counts = self._ask_numbers[ask], Counter[Cause]()
        for state in self._states.values():
            cause = state.options[number]
            assert isinstance(cause, Cause), "an ask was refused though it fits"
            counts[cause] += len(state.members)
        causes = tuple((cause, counts[cause]) for cause in Cause if counts[cause])
        return NoSeat(causes=causes, message=_sentence(ask, len(self._nodes), causes))


def missing_cause(room: _Room, ask: Ask) -> Cause | None:
    """The first thing a node with this room lacks for the ask, None if it fits."""
    if ask.num_devices and ask.device_types and room.device_type not in ask.device_types:
        return Cause.WRONG_TYPE
    if ask.num_devices and sum(gap >= ask.device_millis for gap in room.gaps) < ask.num_devices:
        return Cause.NO_ROOM
    if ask.cpu_millis > room.cpu_millis:
        return Cause.NO_CPU
    return Cause.NO_HOST_MEMORY if ask.host_memory_bytes > room.host_memory_bytes else None


def _empty_room(node: EmptyNode) -> _Room:
    gaps = (WHOLE_DEVICE_MILLIS,) * node.num_devices
    return _Room(node.device_type, gaps, node.cpu_millis, node.host_memory_bytes)


def _choices(gaps: Gaps, ask: Ask) -> Iterable[int]:
    """The gaps an ask may be taken from; whole devices are all alike."""
    if ask.is_part_of_a_device:
        return {gap for gap in gaps if gap >= ask.device_millis}
    return (ask.device_millis,)


def _gaps_after(gaps: Gaps, ask: Ask, gap: int) -> Gaps:
    left = list(gaps)
    for _ in range(ask.num_devices):
        left.remove(gap)
    if gap > ask.device_millis:
        insort(left, gap - ask.device_millis)
    return tuple(left)


def _pick(free: Sequence[int], ask: Ask, gap: int) -> tuple[int, ...]:
    """The first devices with this much free."""
    return tuple(index for index, millis in enumerate(free) if millis == gap)[: ask.num_devices]


def _sentence(ask: Ask, num_nodes: int, causes: tuple[tuple[Cause, int], ...]) -> str:
    wanted = (
        f"{ask.num_devices} device(s) with {ask.device_millis} thousandths each" if ask.num_devices else "no device"
    )
    counted = ", ".join(f"{number} {CAUSE_WORDS[cause]}" for cause, number in causes)
    return (
        f"No node for an ask of {wanted}, {ask.cpu_millis / 1000:g} cores and {gib(ask.host_memory_bytes)}: "
        f"of {num_nodes} nodes, {counted or 'none is there'}. It may fit when something else leaves."
    )
