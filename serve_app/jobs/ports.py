"""What jobs need of the world, as protocols: a placer, a host for programs. And what passes between them and us."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.jobs.job import Ending, Job, Placed
from serve_app.jobs.messages import Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """No room. `message` is the placer's whole sentence: what is missing, and what would help."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """One attempt of a job, for the machine that runs it. Picklable.

    `traceparent` is the span of this run, None where nothing is traced.
    """

    job: Job
    placed: Placed
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last event of a run: its program and all it started are gone."""

    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart:
    """What a job's program printed, from byte `offset` on; ask again from `next_offset`.

    `num_dropped` bytes before it were asked for and are gone, because the log is bounded.
    """

    text: str
    offset: int
    next_offset: int
    num_dropped: int = 0


class Placer(Protocol):
    async def place(self, job: Job) -> Placed | Blocked:
        """Take the job's shares; they are held until `free`. What it took and did not return dies with the process.

        Raises: HeadroomError when it cannot be asked now.
        """
        ...

    async def free(self, placed: Placed) -> None:
        """Give shares back; ones that are gone already are no error. Returns once others can have the bytes."""
        ...


class Handle(Protocol):
    """One run that was started."""

    def events(self) -> AsyncIterator[Said | Ended]:
        """What the program says, to `Ended`. Ends without one when its machine is lost."""
        ...

    async def stop(self, *, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; returns when it is sent. Once more, or after the end, does nothing."""
        ...


class Host(Protocol):
    async def start(self, order: RunOrder) -> Handle:
        """Raises: HeadroomError when the program's machine cannot be reached."""
        ...

    async def clear(self, job_id: str, placed: Placed) -> None:
        """End whatever an attempt left behind on its node, by the job's mark. Returns when it is gone, or its node is.

        Nothing there is no error.
        """
        ...

    async def read_log(self, job_id: str, node: str, *, offset: int, max_bytes: int) -> LogPart:
        """A negative `offset` counts from the end. Raises: HeadroomError when that node cannot be asked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a running job told last, and is not worth a write each time. Empty before it told anything."""

    step: int = 0
    num_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
