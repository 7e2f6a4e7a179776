"""What an answer's origin is told in, step by step, and what is looked in for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.rollout.views import RolloutView
from tracing.recent import SpanRecord


class StepKind(StrEnum):
    """From the answer backwards, in this order."""

    ANSWER = "answer"
    REPLICA = "replica"
    DEVICE = "device"
    WEIGHTS = "weights"
    ROLLOUT = "rollout"
    COMPARISON = "comparison"
    TRAINING = "training run"
    PARENT = "began from"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`missing` is why nothing is known of it, "" where something is. Times are None where they are not known.

    `queued_s` is what it waited for room, apart from `took_s`, which is what it then ran.
    """

    kind: StepKind
    name: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""
    began_unix_s: float | None = None
    queued_s: float | None = None
    took_s: float | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A checkpoint that lies on this machine, by its manifest. `trace_id` is of the run that wrote it."""

    model: str
    weights_version: str
    checkpoint: str
    step: int
    config_hash: str
    git_commit: str | None
    parent: str | None
    trace_id: str | None
    created_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A checkpoint's line in the comparisons. `accuracy` and `rank` None: it was not scored."""

    weights_version: str
    state: str
    reason: str
    accuracy: float | None
    rank: int | None
    verdict: str
    looked_at_unix_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A job as the controller shows it. `queued_s` is of its last attempt."""

    id: str
    kind: str
    model: str | None
    state: str
    attempt: int
    node: str | None
    devices: tuple[str, ...]
    weights_version: str | None
    trace_id: str | None
    submitted_unix_s: float | None
    queued_s: float | None
    started_unix_s: float | None
    ended_unix_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All there is to look in. `unread` says for a kind of step why its source could not be read.

    `job_spans` are those of the traces of the runs in `made`, as far as this machine kept them.
    """

    made: Sequence[Made] = ()
    compared: Sequence[Compared] = ()
    rollouts: Sequence[RolloutView] = ()
    jobs: Sequence[Ran] = ()
    job_spans: Sequence[SpanRecord] = ()
    unread: Mapping[StepKind, str] = field(default_factory=dict)
