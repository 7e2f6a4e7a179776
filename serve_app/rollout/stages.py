"""The stage machine of a rollout: an event in, the record as it is then and what to do next out. Pure.

    requested ─ backed_up ─ shipping ─ preparing ─ [canary] ─ switching ─ committed ─ observing ─ finished
        └───────────┴───────────┴──────────┴─► refused  └────────┴───────────┴───────────┴─► returning ─ returned

Each stage is in the store before its effect begins, so that `recover` knows what may have happened. The one write
that decides between old and new is the commit of `world.Publish`: before it everything goes back, after it forward.
Knows no clock: time is what it is told has passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from serve_app.rollout.record import Hold, Kind, Learned, Record, Stage, StageTime, Way, moved
from serve_app.rollout.triggers import CheckFound, Trigger, check_triggers


class Effect(StrEnum):
    BACK_UP = "back_up"
    RESTORE = "restore"
    CHOOSE = "choose"
    SHIP = "ship"
    PREPARE = "prepare"
    STAND = "stand"
    SWITCH = "switch"
    SETTLE = "settle"
    RETURN = "return"


WHOLE: Final = frozenset({Effect.SWITCH, Effect.SETTLE, Effect.RETURN})
"""Never broken off from outside: they are short, and half of one is a state between."""


class Command(StrEnum):
    """What a person may ask of a rollout under way."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The effect was carried out; `learned` is the record's own with what it found out."""

    learned: Learned


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It was not; what it began is not undone yet. `trigger` where one of row C7's is the reason."""

    reason: str
    trigger: Trigger | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Time has passed, and this is what is wrong, the most urgent first.

    `is_blind`: nobody could tell, so the time proves nothing. `checks` are those of the service after the switch, None
    while they are under way.
    """

    triggers: tuple[Trigger, ...] = ()
    is_blind: bool = False
    checks: tuple[CheckFound, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    command: Command
    by: str


Event = Done | Failed | TimedOut | Looked | Asked

_LIMITS_S: Final[Mapping[Effect, float]] = {
    Effect.BACK_UP: 120.0,
    Effect.RESTORE: 300.0,
    Effect.CHOOSE: 10.0,
    Effect.SHIP: 360.0,
    Effect.PREPARE: 120.0,
    Effect.STAND: 180.0,
    Effect.SWITCH: 60.0,
    Effect.SETTLE: 60.0,
    Effect.RETURN: 100.0,
}
"""What leads to the first traffic adds up to 14 minutes: row C4 gives 15. A return is within the 2 min of row C7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """`canary_share` is the part of the traffic that the candidate gets, 0 to 1, for `canary_s`.

    With `has_checks` no rollout is finished before the service was checked with the new weights.

    Gates are closed for at most `closed_s`, of which running answers may take `drain_s`; one replica is put back
    within `back_s` or told to die.
    """

    canary_share: float = 0.1
    canary_s: float = 60.0
    observe_s: float = 86_400.0
    has_checks: bool = False
    look_s: float = 5.0
    look_limit_s: float = 10.0
    drain_s: float = 20.0
    closed_s: float = 40.0
    back_s: float = 45.0
    again_s: float = 1.0
    most_again_s: float = 30.0
    limits_s: Mapping[Effect, float] = field(default_factory=lambda: dict(_LIMITS_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """`record` to be written first, then `effect` to be begun after `after_s`.

    `effect` None: what runs goes on; where nothing runs, wait for a person or the next look.
    """

    record: Record
    effect: Effect | None = None
    after_s: float = 0.0


_FORWARD: Final = (
    *(Stage.REQUESTED, Stage.BACKED_UP, Stage.SHIPPING, Stage.PREPARING, Stage.CANARY),
    *(Stage.SWITCHING, Stage.COMMITTED, Stage.OBSERVING, Stage.FINISHED),
)
_FROM_NODE: Final = (Stage.PREPARING, Stage.SWITCHING, Stage.COMMITTED, Stage.OBSERVING, Stage.FINISHED)
PATHS: Final[Mapping[Kind, tuple[Stage, ...]]] = {
    Kind.FORWARD: _FORWARD,
    Kind.QUICK: _FROM_NODE,
    Kind.FULL: (Stage.REQUESTED, *_FROM_NODE),
    Kind.RELOAD: _FROM_NODE,
}
BEFORE_TRAFFIC: Final = frozenset({Stage.REQUESTED, Stage.BACKED_UP, Stage.SHIPPING, Stage.PREPARING})
_EFFECTS: Final[Mapping[Stage, Effect]] = {
    Stage.REQUESTED: Effect.BACK_UP,
    Stage.BACKED_UP: Effect.CHOOSE,
    Stage.SHIPPING: Effect.SHIP,
    Stage.PREPARING: Effect.PREPARE,
    Stage.CANARY: Effect.STAND,
    Stage.SWITCHING: Effect.SWITCH,
    Stage.COMMITTED: Effect.SETTLE,
    Stage.RETURNING: Effect.RETURN,
}


def begin(record: Record, *, unix_s: float) -> Move:
    """The first stage of a rollout that was just asked for."""
    first = PATHS[record.kind][0]
    entered = replace(record, stage=first, stages=(StageTime(stage=first, began_unix_s=unix_s),))
    return Move(record=entered, effect=effect_of(entered))


def decide(record: Record, event: Event, *, elapsed_s: float, unix_s: float, policy: RolloutPolicy) -> Move:
    """`elapsed_s` has passed since the last call for this rollout; `unix_s` is only written down."""
    is_blind = isinstance(event, Looked) and event.is_blind
    record = replace(record, spent_s=record.spent_s + (0.0 if is_blind else elapsed_s))
    match event:
        case _ if record.is_over:
            return Move(record=record)
        case Done() if record.hold is Hold.HELD:  # nothing runs that could be done
            return Move(record=record)
        case Done():
            return _done(replace(record, learned=event.learned), unix_s=unix_s, policy=policy)
        case Failed():
            return _failed(record, event.reason, event.trigger, unix_s=unix_s, policy=policy)
        case TimedOut():
            reason = f"{_EFFECTS[record.stage].value} was not done within {event.limit_s:g} s."
            return _failed(record, reason, None, unix_s=unix_s, policy=policy)
        case Looked():
            return _looked(record, event, unix_s=unix_s, policy=policy)
        case Asked():
            return _asked(record, event, unix_s=unix_s, policy=policy)


def recover(record: Record, *, committed: str, unix_s: float) -> Move:
    """What is right after a crash. `committed` is the version that the store says serves the model.

    What was under way is done again: every effect may be repeated. Only a switch is not: it went through if it was
    committed, and else all goes back, for some replicas may hold the new weights behind a closed gate.
    """
    if record.is_over or record.hold is Hold.HELD or record.stage is Stage.OBSERVING:
        return Move(record=record)
    if record.stage is not Stage.SWITCHING:
        fresh = replace(record, stood_s=None)
        return Move(record=fresh, effect=effect_of(fresh))
    if committed == record.new.version != record.old.version:
        return _enter(record, Stage.COMMITTED, unix_s=unix_s)
    return _return(record, "The controller ended during the switch, before it was committed.", None, unix_s=unix_s)


def effect_of(record: Record) -> Effect | None:
    if record.stage is Stage.REQUESTED and record.kind is Kind.FULL:
        return Effect.RESTORE
    return _EFFECTS.get(record.stage)


def _done(record: Record, *, unix_s: float, policy: RolloutPolicy) -> Move:
    if record.stage is Stage.RETURNING:
        return Move(record=moved(record, Stage.RETURNED, unix_s=unix_s))
    if record.stage is Stage.CANARY:  # it stands; now it must prove itself for a while
        return Move(record=replace(record, stood_s=record.spent_s))
    return _next(record, unix_s=unix_s, policy=policy)


def _next(record: Record, *, unix_s: float, policy: RolloutPolicy) -> Move:
    path = [stage for stage in PATHS[record.kind] if stage is not Stage.CANARY or _beside(record)]
    following = path[path.index(record.stage) + 1]
    if following is Stage.OBSERVING and record.observe_s <= 0 and not is_to_be_checked(record, policy):
        following = Stage.FINISHED
    return _enter(record, following, unix_s=unix_s)


def _enter(record: Record, stage: Stage, *, unix_s: float) -> Move:
    record = moved(record, stage, unix_s=unix_s)
    if record.hold is Hold.ASKED and not record.is_over and stage is not Stage.COMMITTED:
        return Move(record=replace(record, hold=Hold.HELD))
    return Move(record=record, effect=effect_of(record))


def _failed(record: Record, reason: str, trigger: Trigger | None, *, unix_s: float, policy: RolloutPolicy) -> Move:
    if record.stage is Stage.RETURNING:
        after_s = min(policy.most_again_s, policy.again_s * 2 ** min(record.num_returns, 16))
        return Move(record=replace(record, num_returns=record.num_returns + 1), effect=Effect.RETURN, after_s=after_s)
    return _return(record, reason, trigger, unix_s=unix_s)


def _return(record: Record, reason: str, trigger: Trigger | None, *, unix_s: float) -> Move:
    """Back to the old weights; where nothing that serves was touched, that is a refusal and nothing to do."""
    is_untouched = record.stage in BEFORE_TRAFFIC
    record = replace(
        record,
        reason=reason,
        trigger=trigger.kind if trigger else None,
        return_within_s=trigger.rule.within_s if trigger and not is_untouched else None,
        hold=Hold.FREE,
    )
    return _enter(record, Stage.REFUSED if is_untouched else Stage.RETURNING, unix_s=unix_s)


def is_to_be_checked(record: Record, policy: RolloutPolicy) -> bool:
    """What goes back, or is read again, is in a hurry; and a return from it would bring back what somebody fled."""
    return policy.has_checks and record.kind is Kind.FORWARD and record.learned.checks is None


def _looked(record: Record, looked: Looked, *, unix_s: float, policy: RolloutPolicy) -> Move:
    record = replace(record, learned=replace(record.learned, checks=looked.checks or record.learned.checks))
    triggers = looked.triggers + check_triggers(looked.checks or ())
    if triggers and record.stage is not Stage.RETURNING:
        return _return(record, triggers[0].reason, triggers[0], unix_s=unix_s)
    if record.hold is Hold.HELD:
        return Move(record=record)
    stood_s = record.stood_s if record.stage is Stage.CANARY else None
    is_proven = stood_s is not None and record.spent_s - stood_s >= policy.canary_s
    is_watched = record.stage is Stage.OBSERVING and record.spent_s >= record.observe_s
    is_settled = is_watched and not is_to_be_checked(record, policy)
    return _next(record, unix_s=unix_s, policy=policy) if is_proven or is_settled else Move(record=record)


def _asked(record: Record, asked: Asked, *, unix_s: float, policy: RolloutPolicy) -> Move:
    if record.stage is Stage.RETURNING:
        return Move(record=record)
    match asked.command:
        case Command.ROLLBACK:
            return _return(record, f"{asked.by} asked for it.", None, unix_s=unix_s)
        case Command.PAUSE:
            hold = record.hold if record.hold is Hold.HELD else Hold.ASKED
            return Move(record=replace(record, hold=hold))
        case Command.RESUME:
            return _resumed(record)
        case Command.PROMOTE:
            return _promoted(replace(record, hold=Hold.FREE), was=record.hold, unix_s=unix_s, policy=policy)


def _resumed(record: Record) -> Move:
    """A hold that was only asked for ends without having held anything up."""
    free = replace(record, hold=Hold.FREE)
    return Move(record=free, effect=effect_of(free) if record.hold is Hold.HELD else None)


def _promoted(record: Record, *, was: Hold, unix_s: float, policy: RolloutPolicy) -> Move:
    """Ends the waiting, not the checks: a canary that stands goes to the switch, an observation is over."""
    is_waiting = (record.stage is Stage.CANARY and record.has_candidate) or record.stage is Stage.OBSERVING
    if is_waiting:
        return _next(record, unix_s=unix_s, policy=policy)
    return Move(record=record, effect=effect_of(record) if was is Hold.HELD else None)


def _beside(record: Record) -> bool:
    return record.learned.way is Way.SIDE_BY_SIDE
