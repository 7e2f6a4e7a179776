"""What is written down of one rollout: where it stands, what it learned on the way, and how long each stage took."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from serve_app.engines.fingerprint import Fingerprint
from serve_app.rollout.triggers import CheckFound, Traffic, TriggerKind


class Stage(StrEnum):
    REQUESTED = "requested"
    BACKED_UP = "backed_up"
    SHIPPING = "shipping"
    PREPARING = "preparing"
    CANARY = "canary"
    SWITCHING = "switching"
    COMMITTED = "committed"
    OBSERVING = "observing"
    RETURNING = "returning"
    FINISHED = "finished"
    RETURNED = "returned"
    """The old weights answer again."""
    REFUSED = "refused"
    """Nothing that serves was ever touched."""


OVER: Final = frozenset({Stage.FINISHED, Stage.RETURNED, Stage.REFUSED})


class Kind(StrEnum):
    FORWARD = "forward"
    QUICK = "quick_rollback"
    """Back to weights that are still on the nodes."""
    FULL = "full_rollback"
    """Configuration, state and weights of a backup."""
    RELOAD = "reload"
    """The weights that serve, read from their files again."""


class Mode(StrEnum):
    """What was asked for."""

    AUTO = "auto"
    IN_PLACE = "in_place"
    SIDE_BY_SIDE = "side_by_side"


class Way(StrEnum):
    """What is done."""

    IN_PLACE = "in_place"
    SIDE_BY_SIDE = "side_by_side"


class Hold(StrEnum):
    """A person's pause. It takes hold between two stages, before anything of the next one is done."""

    FREE = "free"
    ASKED = "asked"
    HELD = "held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One checkpoint: a directory, the first 12 hex digits of its digest, the trainer's step (None: nobody says)."""

    path: str
    version: str
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What was copied: bytes, how long that took, and the whole digest of what lies on the nodes now."""

    num_bytes: int
    duration_s: float
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Whether one more replica fits beside those that serve, above the headroom."""

    needed_bytes: int
    free_bytes: int
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the stages found out; None: not yet. `former` is what the old weights said to the fixed prompts."""

    backup: str | None = None
    way: Way | None = None
    room: Room | None = None
    shipped: Shipped | None = None
    former: Fingerprint | None = None
    before: Traffic = field(default_factory=Traffic)
    canary_accuracy: float | None = None
    closed_s: float | None = None
    """How long the gates were closed, all replicas together."""
    vram_bytes: int | None = None
    checks: tuple[CheckFound, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Unix times, for eyes only: nothing is decided by them. `spent_s` is measured by a clock that never jumps."""

    stage: Stage
    began_unix_s: float
    spent_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`spent_s` is the time in this stage as far as it was seen; it survives a restart and no clock can move it.

    `expected` is what the new weights must say to the fixed prompts, None when only the running ones can tell.
    `score` is the accuracy that comparison found, 0 to 1. `traceparent` is that of the rollout's own span.
    """

    id: int
    model: str
    kind: Kind
    mode: Mode
    by: str
    old: Weights
    new: Weights
    observe_s: float
    asked_unix_s: float
    score: float | None = None
    score_before: float | None = None
    """Accuracy that comparison found of the weights that serve."""
    expected: Fingerprint | None = None
    config_hash: str | None = None
    git_commit: str | None = None
    made_by: str | None = None
    """`traceparent` of the training run that made the new weights."""
    traceparent: str | None = None
    stage: Stage = Stage.REQUESTED
    hold: Hold = Hold.FREE
    stood_s: float | None = None
    """Where of `spent_s` the candidate stood and got traffic; None: it does not yet."""
    spent_s: float = 0.0
    learned: Learned = Learned()
    trigger: TriggerKind | None = None
    reason: str = ""
    return_within_s: float | None = None
    num_returns: int = 0
    stages: tuple[StageTime, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.stage in OVER

    @property
    def has_candidate(self) -> bool:
        return self.stood_s is not None

    @property
    def is_held(self) -> bool:
        return self.hold is Hold.HELD

    @property
    def trace_id(self) -> str | None:
        return self.traceparent.split("-")[1] if self.traceparent else None

    @property
    def is_late(self) -> bool:
        """The old weights were not back within the time that the trigger allows."""
        spent_s = sum(one.spent_s for one in self.stages if one.stage is Stage.RETURNING)
        now_s = self.spent_s if self.stage is Stage.RETURNING else 0.0
        return self.return_within_s is not None and spent_s + now_s > self.return_within_s


def moved(record: Record, stage: Stage, *, unix_s: float) -> Record:
    """In `stage` from now on; how long the last one took is written down."""
    *earlier, last = record.stages or (StageTime(stage=record.stage, began_unix_s=record.asked_unix_s),)
    times = (*earlier, replace(last, spent_s=record.spent_s), StageTime(stage=stage, began_unix_s=unix_s))
    return replace(record, stage=stage, spent_s=0.0, stages=times)
