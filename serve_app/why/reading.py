"""Reads what is `known.py`: span files, checkpoints and comparisons of this machine, pages of the cluster.

A source that cannot be read is told as such, and the others are looked in all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.compare.board import FILE_NAME
from serve_app.errors import CheckpointRefused, HeadroomError
from serve_app.rollout.views import RolloutsView
from serve_app.training.checkpoints import read_manifest
from serve_app.training.manifest import Manifest
from serve_app.training.sources import models_folder
from serve_app.why.known import Compared, Known, Made, Ran, StepKind
from tracing import names
from tracing.propagation import parse_traceparent
from tracing.recent import SpanRecord, find_traces, read_spans

_MAX_FILE_BYTES: Final = 64 << 20
_MAX_CHECKPOINTS: Final = 10_000
_TRACE_PREFIX: Final = re.compile(r"[0-9a-fA-F]{4,32}")

M = TypeVar("M", bound=BaseModel)


class NotKept(HeadroomError):
    """What was asked for is not among the traces of this machine."""


class _Loose(BaseModel):
    """Fields of tomorrow are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Score(_Loose):
    accuracy: float


class _Verdict(_Loose):
    sentence: str


class _Line(_Loose):
    weights_version: str | None
    state: str
    reason: str | None = None
    rank: int | None = None
    looked_at: str | None = None
    score: _Score | None = None
    verdict: _Verdict | None = None


class _Boards(_Loose):
    models: dict[str, tuple[_Line, ...]]


class _Job(_Loose):
    id: str
    kind: str
    model: str | None = None
    state: str
    attempt: int = 0
    node: str | None = None
    devices: tuple[str, ...] = ()
    weights_version: str | None = None
    trace_id: str | None = None
    submitted: str | None = None
    started: str | None = None
    ended: str | None = None
    wait_s: float | None = None


class _Jobs(_Loose):
    jobs: Annotated[tuple[_Job, ...], Field(max_length=1000)]


def read_trace(folder: Path, asked: str) -> tuple[SpanRecord, ...]:
    """The spans of the answer's trace, by its trace id (or the beginning of it) or the answer's id.

    Raises: NotKept.
    """
    ids = {span.trace_id for span in read_spans(folder) if span.attributes.get(names.GEN_AI_RESPONSE_ID) == asked}
    if not ids and _TRACE_PREFIX.fullmatch(asked):
        ids = set(find_traces(folder, asked))
    if len(ids) > 1:
        raise NotKept(f"'{asked}' fits {len(ids)} traces.", advice="Give more digits of the trace id.")
    if not ids:
        raise NotKept(
            f"No trace kept in '{folder}' is of '{asked[:128]}'.",
            expected="An answer's `id` or its header `x-trace-id`; a machine keeps its last traces.",
            advice="`headroom traces` lists those that are kept.",
        )
    (trace_id,) = ids
    return find_traces(folder, trace_id)[trace_id]


def read_known(home: Path, ask: Callable[[str], Any]) -> Known:
    """Everything there is, and for the rest why there is not. `ask` gives a page of the cluster, or HeadroomError."""
    unread: dict[StepKind, str] = {}
    made = tuple(_checkpoints(home))
    trace_ids = {one.trace_id for one in made}
    compared: Sequence[Compared] = ()
    try:
        compared = _comparisons(home)
    except (OSError, ValueError) as error:
        unread[StepKind.COMPARISON] = f"The file of comparisons cannot be read: {type(error).__name__}."
    rollouts, unread_rollouts = _page(RolloutsView, "/v1/rollouts?limit=100", ask)
    jobs, unread_jobs = _page(_Jobs, "/v1/jobs?page_size=1000", ask)
    unread |= {StepKind.ROLLOUT: unread_rollouts} if unread_rollouts else {}
    unread |= {StepKind.TRAINING: unread_jobs} if unread_jobs else {}
    return Known(
        made=made,
        compared=compared,
        rollouts=rollouts.rollouts if rollouts is not None else (),
        jobs=_ran(jobs) if jobs is not None else (),
        job_spans=tuple(span for span in read_spans(home / "traces") if span.trace_id in trace_ids),
        unread=unread,
    )


def _page(form: type[M], path: str, ask: Callable[[str], Any]) -> tuple[M | None, str]:
    """The page, or why there is none."""
    try:
        return form.model_validate(ask(path)), ""
    except HeadroomError as error:
        return None, f"{path.partition('?')[0]} cannot be read: {error.what}"
    except ValidationError as error:
        return None, f"{path.partition('?')[0]} has another form in {error.error_count()} places."


def _checkpoints(home: Path) -> Iterator[Made]:
    """Those with a manifest of ours; one that cannot be read is no origin of anything that serves."""
    found = sorted(models_folder(home).glob("*/checkpoint-*"))[:_MAX_CHECKPOINTS]
    for directory in found:
        try:
            manifest = read_manifest(directory)
        except (CheckpointRefused, OSError):
            continue
        if manifest is not None:
            yield _made(directory, manifest)


def _made(directory: Path, manifest: Manifest) -> Made:
    parent = parse_traceparent(manifest.traceparent.encode()) if manifest.traceparent else None
    return Made(
        model=manifest.model,
        weights_version=manifest.weights_version,
        checkpoint=directory.name,
        step=manifest.step,
        config_hash=manifest.config_hash,
        git_commit=manifest.git_commit,
        parent=manifest.parent,
        trace_id=parent.trace_id if parent is not None else None,
        created_unix_s=manifest.created_at.timestamp(),
    )


def _comparisons(home: Path) -> tuple[Compared, ...]:
    """None where nothing was compared yet. Raises: OSError, ValueError."""
    path = home / "status" / FILE_NAME
    if not path.exists():
        return ()
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"'{path}' has more than {_MAX_FILE_BYTES} bytes")
    boards = _Boards.model_validate_json(path.read_bytes())
    lines = (line for lines in boards.models.values() for line in lines)
    return tuple(
        Compared(
            weights_version=line.weights_version or "",
            state=line.state,
            reason=line.reason or "",
            accuracy=line.score.accuracy if line.score else None,
            rank=line.rank,
            verdict=line.verdict.sentence if line.verdict else "",
            looked_at_unix_s=_unix_s(line.looked_at),
        )
        for line in lines
    )


def _ran(page: _Jobs) -> tuple[Ran, ...]:
    return tuple(
        Ran(
            id=job.id,
            kind=job.kind,
            model=job.model,
            state=job.state,
            attempt=job.attempt,
            node=job.node,
            devices=job.devices,
            weights_version=job.weights_version,
            trace_id=job.trace_id,
            submitted_unix_s=_unix_s(job.submitted),
            queued_s=job.wait_s,
            started_unix_s=_unix_s(job.started),
            ended_unix_s=_unix_s(job.ended),
        )
        for job in page.jobs
    )


def _unix_s(text: Any) -> float | None:
    """Of an ISO 8601 time; None where it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
