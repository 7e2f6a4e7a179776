"""`steps`: how to come from the plan in force to another one, with what it costs and what it interrupts.

Values and the one entrance. The difference is `changes.py`, the order `order.py` and `order_greedy.py`, what may run
at the same time `batches.py`. Headroom holds at every moment between the two plans as it does in them; no order in
time is needed within a batch, and a batch begins when the one before it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from placement.batches import batches
from placement.changes import Change, Copy, Difference, Rates, difference, load_bytes
from placement.demand import Demand
from placement.detours import find_temporary_places
from placement.errors import InvalidProblem
from placement.inventory import Inventory
from placement.moves import Action, ActionKind, Board, Move
from placement.occupancy import Occupancy
from placement.order import OrderSearch
from placement.order_greedy import GreedyOrder
from placement.plan import Plan

MAX_EXACT_CHANGES = 8
"""Changes above which the heuristic orders them."""
DEFAULT_RATES = Rates()

Batches = tuple[tuple[Action, ...], ...]


class StepKind(StrEnum):
    UNCHANGED = "unchanged"
    START = "start"
    STOP = "stop"
    MOVE_SIDE_BY_SIDE = "move side by side"
    """The new one starts, then the old one stops: the replica answers all the time."""
    MOVE_IN_TURN = "move in turn"
    """The old one stops, then the new one starts, because both do not fit at once."""
    LOST = "lost"
    """Its device or node is gone and it is not wanted any more: nothing to do."""


class Order(StrEnum):
    """How the order was found."""

    EXACT = "exact"
    """No order, with one temporary place for each replica that moves, interrupts less.

    A replica on several devices could be helped by a second one, where its places overlap; that is not tried.
    """
    EXACT_WITHOUT_DETOURS = "exact without detours"
    """As exact, but the search for temporary places came to its limit."""
    HEURISTIC = "heuristic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens to one replica.

    `before` and `after` are its devices, empty when it does not run then; `via` its temporary place. `num_bytes` are
    the weights that its starts read, `price_s` the time for it by the rates. `interrupts`: its stop leaves its
    model without a running replica for a while.
    """

    replica: str
    model: str
    kind: StepKind
    before: tuple[str, ...]
    after: tuple[str, ...]
    via: tuple[str, ...]
    num_bytes: int
    price_s: float
    interrupts: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """A model that ran and is wanted has no running replica for `seconds` from `from_s` on.

    `was_down`: its replicas were lost before any step, so that waiting is not the steps' doing.
    """

    model: str
    priority: int
    from_s: float
    seconds: float
    was_down: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """`steps` has one entry per replica of either plan; `batches` are the actions to do, batch after batch.

    `price_s` sums all loads, `duration_s` those of the slowest start of each batch. Seconds are by the rates given.
    """

    inventory_version: int
    steps: tuple[Step, ...]
    batches: Batches
    interruptions: tuple[Interruption, ...]
    price_s: float
    duration_s: float
    order: Order

    @property
    def num_moves(self) -> int:
        """Replicas that run somewhere else afterwards."""
        return sum(step.kind in (StepKind.MOVE_SIDE_BY_SIDE, StepKind.MOVE_IN_TURN) for step in self.steps)


def steps(
    before: Plan | None,
    after: Plan,
    inventory: Inventory,
    demands: Sequence[Demand],
    *,
    demands_before: Sequence[Demand] = (),
    rates: Rates = DEFAULT_RATES,
    max_exact_changes: int = MAX_EXACT_CHANGES,
) -> Steps:
    """From `before` (None: nothing runs) to `after`, which was made for this inventory and these demands.

    `demands_before` describe the replicas of `before` where they differ; empty means they do not.
    Raises: InvalidProblem when `after` breaks headroom on this inventory, or a placement has no demand.
    """
    placed = before.placements if before else ()
    change = difference(
        placed, after.placements, inventory, demands=demands, demands_before=demands_before, rates=rates
    )
    board = Board(change, inventory, after.headroom)
    _reject_what_does_not_fit(board)
    moves, order = _order(board, demands, rates, max_exact_changes)
    done = batches(board, moves)
    return Steps(
        inventory_version=inventory.version,
        steps=tuple(_steps(change, done)),
        batches=done,
        interruptions=tuple(_interruptions(board, change, done)),
        price_s=sum(action.price_s for batch in done for action in batch),
        duration_s=sum(map(_batch_s, done)),
        order=order,
    )


def _reject_what_does_not_fit(board: Board) -> None:
    """Where the plan wanted fits when everything has stopped, an order always exists."""
    occupancy = Occupancy(board.ground)
    for change in board.changes:
        if change.new:
            if not occupancy.admits(change.new):
                where = ", ".join(change.new.devices)
                raise InvalidProblem(
                    f"'{change.replica}' does not fit on {where} beside what the plan puts there; "
                    "make the plan again from this inventory"
                )
            occupancy.add(change.new)


def _order(
    board: Board, demands: Sequence[Demand], rates: Rates, max_exact_changes: int
) -> tuple[Sequence[Move], Order]:
    if len(board.changes) > max_exact_changes:
        find_temporary_places(board, demands, rates)
        return GreedyOrder(board).moves, Order.HEURISTIC
    direct = OrderSearch(board)
    assert direct.moves is not None, "without detours the states are few, and stopping everything is an order"
    if not direct.num_interruptions:
        return direct.moves, Order.EXACT
    find_temporary_places(board, demands, rates)
    with_detours = OrderSearch(board)
    if with_detours.moves is None:
        return direct.moves, Order.EXACT_WITHOUT_DETOURS
    return with_detours.moves, Order.EXACT


def _batch_s(batch: Sequence[Action]) -> float:
    return max((action.price_s for action in batch), default=0.0)


def _steps(change: Difference, done: Batches) -> Iterator[Step]:
    actions: dict[str, list[Action]] = {}
    for action in (action for batch in done for action in batch):
        actions.setdefault(action.replica, []).append(action)
    for one in change.changes:
        yield _step(one, actions.get(one.replica, []))
    for copy in change.stays:
        yield _unchanged(copy)


def _step(change: Change, actions: Sequence[Action]) -> Step:
    starts = [action for action in actions if action.kind is ActionKind.START]
    via = next((action.devices for action in starts if action.temporary), ())
    kind = _kind(change, actions)
    one_load = load_bytes(change.new.placement) if change.new else 0
    return Step(
        replica=change.replica,
        model=change.model,
        kind=kind,
        before=change.old.devices if change.old else change.lost.devices if change.lost else (),
        after=change.new.devices if change.new else (),
        via=via,
        num_bytes=one_load * len(starts),
        price_s=sum(action.price_s for action in starts),
        interrupts=any(action.interrupts for action in actions),
        reason=_reason(change, kind, via),
    )


def _kind(change: Change, actions: Sequence[Action]) -> StepKind:
    if change.old is None:
        return StepKind.START if change.new else StepKind.LOST
    if change.new is None:
        return StepKind.STOP
    runs = 1
    for action in actions:
        runs += 1 if action.kind is ActionKind.START else -1
        if runs == 0:
            return StepKind.MOVE_IN_TURN
    return StepKind.MOVE_SIDE_BY_SIDE


def _reason(change: Change, kind: StepKind, via: Sequence[str]) -> str:
    if change.lost:
        return f"{', '.join(change.lost.devices)} {'is' if len(change.lost.devices) == 1 else 'are'} gone"
    if via:
        return f"waits on {', '.join(via)} until its place is free"
    if kind is StepKind.MOVE_IN_TURN:
        return "old and new do not fit at the same time"
    return ""


def _unchanged(copy: Copy) -> Step:
    return Step(
        replica=copy.placement.replica,
        model=copy.placement.model,
        kind=StepKind.UNCHANGED,
        before=copy.devices,
        after=copy.devices,
        via=(),
        num_bytes=0,
        price_s=0.0,
        interrupts=False,
        reason="",
    )


def _interruptions(board: Board, change: Difference, done: Batches) -> Iterator[Interruption]:
    """A model's service ends when the batch of its last stop begins, and returns when the batch of a start is done."""
    serving = board.num_serving(board.first())
    since = dict.fromkeys(sorted(change.down & board.kept), 0.0)
    was_down, now_s = set(since), 0.0
    for batch in done:
        end_s = now_s + _batch_s(batch)
        for action in batch:
            serving[action.model] += 1 if action.kind is ActionKind.START else -1
            if action.interrupts:
                since[action.model] = now_s
        for model in [model for model in since if serving[model]]:
            yield _interruption(board, model, since.pop(model), end_s, was_down=model in was_down)
            was_down.discard(model)
        now_s = end_s


def _interruption(board: Board, model: str, from_s: float, to_s: float, *, was_down: bool) -> Interruption:
    return Interruption(
        model=model, priority=board.priority[model], from_s=from_s, seconds=to_s - from_s, was_down=was_down
    )
