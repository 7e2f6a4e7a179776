"""Online placement: asks come one by one, each gets the seat that leaves the most useful room, or a reason why none.

Nothing that fits is ever refused. Looks at what has arrived and what was known before, never at what will arrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from placement.ask import Ask, EmptyNode, NoSeat, Seat, check_ask
from placement.lookahead import MAX_KEPT
from placement.mix import Mix
from placement.plan import Cause
from placement.refusal import CAUSE_WORDS
from placement.rooms import Option, Room, Rooms, gap_choices, gaps_after, missing_cause
from placement.units import gib
from placement.worth import Tuning, Worth

FIRST_LEARNT = 32
"""Arrivals before the mix is first learnt; then again whenever their number has doubled."""

# Between seats of equal loss: the tightest device, then the tightest node, then the fewest cores left.
_TIE_GAP, _TIE_IDLE, _TIE_CPU = 1e-3, 1e-4, 1e-8


class OnlinePlacer:
    """Owns the free room of `nodes`; earlier nodes win ties. Not shared between threads.

    `known` is the workload as far as it is known before the first arrival; what arrives is added to it.
    Raises InvalidProblem for nodes that contradict themselves.
    """

    def __init__(self, nodes: Sequence[EmptyNode], *, known: Iterable[Ask] = (), tuning: Tuning | None = None) -> None:
        self._rooms = Rooms(nodes, self._option)
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
        return self._rooms.take(ask) or self._refuse(ask)

    def release(self, ask: Ask, seat: Seat) -> None:
        """Gives back what `ask` took at `seat`. Raises InvalidProblem if that much was not taken there."""
        check_ask(ask)
        self._rooms.give_back(ask, seat)

    def has_room(self, ask: Ask) -> bool:
        """True if the ask would get a seat now."""
        return self._rooms.has_room(ask)

    def would_fit(self, ask: Ask, other: Ask, seat: Seat) -> bool:
        """True if the ask would fit on the node where `other` lies at `seat`, were that one gone."""
        return missing_cause(self._rooms.room_without(other, seat), ask) is None

    def reseat(self, ask: Ask, seat: Seat) -> Seat | None:
        """Moves what lies at `seat` to the best seat on another node; None, and nothing moved, if that is none."""
        after = self._rooms.take(ask)
        if after is not None and after.node == seat.node:
            self._rooms.give_back(ask, after)
            after = None
        if after is not None:
            self._rooms.give_back(ask, seat)
        return after

    def seat_known(self, ask: Ask) -> Seat | None:
        """As `place` for an ask that has been counted as arrived before."""
        return self._rooms.take(ask)

    def free_device_millis(self, node: str) -> tuple[int, ...]:
        """What is free of each device of a node, by index."""
        return self._rooms.free_device_millis(node)

    def _option(self, room: Room, ask: Ask) -> Option:
        """The best way to lie in a room. Scores are device millis won (+) or lost (-)."""
        before = self._loss(room)
        return max(self._scored(before, room, ask, gap) for gap in gap_choices(room.gaps, ask))

    def _scored(self, loss_before: float, room: Room, ask: Ask, gap: int) -> Option:
        gaps, cpu_millis = gaps_after(room.gaps, ask, gap), room.cpu_millis - ask.cpu_millis
        won = loss_before - self._worth.loss_millis(room.device_type, gaps, cpu_millis)
        ties = _TIE_GAP * (gap - ask.device_millis) + _TIE_IDLE * sum(gaps) + _TIE_CPU * cpu_millis
        return Option(won - self._worth.price_millis(room.device_type, ask) - ties, gap)

    def _loss(self, room: Room) -> float:
        loss = self._losses.get(room)
        if loss is None:
            if len(self._losses) >= MAX_KEPT:
                self._losses.clear()
            loss = self._worth.loss_millis(room.device_type, room.gaps, room.cpu_millis)
            self._losses[room] = loss
        return loss

    def _learn(self) -> None:
        """Every score rests on the mix, so all are forgotten."""
        self._learn_at = max(FIRST_LEARNT, 2 * self._mix.num_seen)
        self._worth = Worth(self._mix, self._devices_by_type, self._tuning)
        self._losses: dict[Room, float] = {}
        self._rooms.forget_scores()

    def _refuse(self, ask: Ask) -> NoSeat:
        causes = self._rooms.causes(ask)
        return NoSeat(causes=causes, message=_sentence(ask, len(self._rooms.nodes), causes))


def _sentence(ask: Ask, num_nodes: int, causes: tuple[tuple[Cause, int], ...]) -> str:
    wanted = f"{ask.num_devices} device(s) with {ask.device_millis} thousandths each" if ask.num_devices else "none"
    counted = ", ".join(f"{number} {CAUSE_WORDS[cause]}" for cause, number in causes)
    return (
        f"No node for an ask of {wanted}, {ask.cpu_millis / 1000:g} cores and {gib(ask.host_memory_bytes)}: "
        f"of {num_nodes} nodes, {counted or 'none is there'}. It may fit when something else leaves."
    )
