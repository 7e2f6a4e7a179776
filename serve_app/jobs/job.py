"""A job as values: what was asked for, and where it stands. Must not know a queue, a store, a process or a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from serve_app.jobs.messages import Saved

MAX_PRIORITY: Final = 1000
DEFAULT_PRIORITY: Final = 5
"""Below that of a model (10), so that a job gives way to what serves."""
GIB: Final = 2**30


class JobKind(StrEnum):
    TRAIN = "train"
    REINFORCE = "reinforce"
    SCORE = "score"
    """Of our own: a checkpoint is asked its test set."""
    SCRIPT = "script"


class JobState(StrEnum):
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    """It has its shares; its program is being started."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OVER: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobReason(StrEnum):
    """Why a job is in its state; of a queued one, why it is there again or what it waits for."""

    SUBMITTED = "submitted"
    NO_ROOM = "no_room"
    """The placer has no room now; the message says what is missing."""
    BEHIND = "behind"
    """A larger job ahead has waited long, and this one would keep it waiting."""
    PLACED = "placed"
    STARTED = "started"
    DONE = "done"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    CONTROLLER_RESTARTED = "controller_restarted"
    NOT_STARTED = "not_started"
    SAID_SO = "said_so"
    """The program told that it cannot be done."""
    EXITED = "exited"
    KILLED = "killed"
    """By a signal nobody of us sent; SIGKILL mostly means that memory ran out."""
    HUNG = "hung"
    TOO_LONG = "too_long"
    DISK_FULL = "disk_full"


NO_ERROR: Final = frozenset({JobReason.DONE, JobReason.CANCELLED, JobReason.PREEMPTED})
"""Its spans end well."""
INTERRUPTIONS: Final = frozenset({JobReason.PREEMPTED, JobReason.NODE_LOST, JobReason.CONTROLLER_RESTARTED})
"""Not the job's fault: it goes back to the queue."""
TRIED_AGAIN: Final = frozenset({JobReason.EXITED, JobReason.KILLED, JobReason.HUNG, JobReason.DISK_FULL})
"""Failures that may pass. What cannot be started, says that it cannot be done or takes too long will not."""
MAX_NODE_LOSSES: Final = 5
"""A job that takes its node down with it must end some time."""
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on two clocks. `now_s` never goes back, and counts; `unix_s` is for eyes."""

    now_s: float
    unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """`run_s` bounds one attempt; `silence_s` is how long a program that works may say nothing at all.

    `log_bytes` bounds what is kept of its output; `num_failures` how often it may fail before it is given up.
    """

    run_s: float = 86_400.0
    silence_s: float = 900.0
    log_bytes: int = 16 * 2**20
    num_failures: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What was asked for. `command` is a program and its arguments, never a line for a shell.

    `config` is JSON text, which the program finds in its environment; "" where there is none. `num_bytes` is asked
    of each of `num_devices` devices. `resume_from` is a checkpoint to begin with. `traceparent` is the caller's span.
    """

    kind: JobKind
    command: tuple[str, ...]
    num_bytes: int
    model: str | None = None
    config: str = ""
    priority: int = DEFAULT_PRIORITY
    num_devices: int = 1
    limits: JobLimits = field(default_factory=JobLimits)
    resume_from: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Shares that a job got: devices by their id, GPUs by UUID in `uuids` (empty on host memory).

    `epoch` names this grant: a later one of the same job has a larger.
    """

    node: str
    devices: tuple[str, ...]
    epoch: int
    uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one attempt ended. `exit_status` is None where no program ran, negative for a signal."""

    reason: JobReason
    message: str
    exit_status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job now. `attempt` counts starts; `num_failures` only those that were the job's own fault.

    `placed` stays until the shares are given back, also after the end; `node` is where it ran last. `stop` is why
    it is to stop, once somebody wants that. `not_before_s` and `holds_after_s` are of `Moment.now_s`; see `queue`.
    `submit_traceparent` and `run_traceparent` name the spans of its submission and of its last attempt.
    """

    id: str
    spec: JobSpec
    state: JobState
    reason: JobReason
    message: str
    submitted: Moment
    queued: Moment
    scheduled: Moment | None = None
    started: Moment | None = None
    ended: Moment | None = None
    attempt: int = 0
    num_failures: int = 0
    num_preemptions: int = 0
    num_node_losses: int = 0
    placed: Placed | None = None
    node: str | None = None
    stop: JobReason | None = None
    stop_message: str = ""
    not_before_s: float = 0.0
    holds_after_s: float = 0.0
    checkpoint: Saved | None = None
    result: str = ""
    """JSON text of what the job was for; "" while there is none."""
    exit_status: int | None = None
    submit_traceparent: str | None = None
    run_traceparent: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def resume_from(self) -> str | None:
        """The checkpoint directory its next attempt goes on from."""
        return self.checkpoint.path if self.checkpoint is not None else self.spec.resume_from

    @property
    def wait_s(self) -> float | None:
        """Of its last attempt, in the queue; None before it is scheduled."""
        return None if self.scheduled is None else self.scheduled.now_s - self.queued.now_s


def pause_s(num_failures: int) -> float:
    """How long a job that failed so often stays in the queue before it is tried again."""
    return float(min(_FIRST_PAUSE_S * 2 ** max(0, num_failures - 1), _LONGEST_PAUSE_S))
