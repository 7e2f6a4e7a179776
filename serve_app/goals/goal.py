"""A goal, the jobs it became, and what is known of both. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.compare.score import CheckpointScore


class Metric(StrEnum):
    ACCURACY = "accuracy"
    LOSS = "loss"
    """Lower is better, unlike the others."""
    REWARD = "reward"
    """The average that reinforcement jobs report."""


class Strategy(StrEnum):
    """What a job does differently; taken in this order, from the best checkpoint each."""

    MORE_STEPS = "more_steps"
    LEARNING_RATE = "learning_rate"
    SEED = "seed"
    REINFORCE = "reinforce"


class GoalState(StrEnum):
    OPEN = "open"
    MET = "met"
    HOPELESS = "hopeless"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`deadline_s` in seconds since 1970. `min_gain`: a job that moves the metric by so much gained, noise or not;
    None: only what is beyond noise counts (for a loss or a reward, whose noise is not known, any gain does)."""

    id: str
    model: str
    metric: Metric
    target: float
    deadline_s: float
    priority: int
    created_at_s: float
    min_gain: float | None = None


class JobState(StrEnum):
    UNKNOWN = "unknown"
    """Nobody knows the job; as good as failed."""
    ACTIVE = "active"
    """Queued, running, or preempted."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalJob:
    """One job of a goal. `before` is the best weights version when it was submitted; `reward` what it reported last."""

    job_id: str
    strategy: Strategy
    state: JobState
    before: str | None
    submitted_at_s: float
    ended_at_s: float | None = None
    reward: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What comparison knows of the goal's model. `pending`: a checkpoint waits to be scored."""

    scores: tuple[CheckpointScore, ...] = ()
    pending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWanted:
    """A job to submit. Rates and steps are relative to what its kind of job does by itself.

    `parent` is the checkpoint to go on from, None to begin anew.
    """

    strategy: Strategy
    model: str
    parent: str | None
    seed: int
    learning_rate_scale: float
    steps_scale: float


@dataclass(frozen=True, slots=True)
class Submit:
    job: JobWanted


@dataclass(frozen=True, slots=True)
class Wait:
    why: str


@dataclass(frozen=True, slots=True)
class Met:
    why: str


@dataclass(frozen=True, slots=True)
class Hopeless:
    why: str


Decision = Submit | Wait | Met | Hopeless


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalEntry:
    """A goal with its state as it is stored; `why` says how it ended, or what it waits for."""

    goal: Goal
    state: GoalState
    why: str = ""
    jobs: tuple[GoalJob, ...] = field(default=())
