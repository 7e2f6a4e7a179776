"""Rollouts as others read them: over HTTP, in `status/deployment_status.json`, on the command line. Plain values."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from serve_app.rollout.record import Record
from serve_app.rollout.triggers import CheckFound

GIB: Final = 2**30


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageView(_View):
    stage: str
    began_unix_s: float
    spent_s: float


class RoomView(_View):
    needed_bytes: int
    free_bytes: int
    fits: bool


class CheckView(_View):
    check: str
    status: str
    measured: str
    reason: str


class RolloutView(_View):
    """The first eight fields are those of row C5. None: not known, or not yet."""

    deployment_id: int
    checkpoint_step: int | None
    score: float | None
    config_hash: str | None
    git_commit: str | None
    transfer_duration_sec: float | None
    reload_vram_gb: float | None
    status: str
    model: str
    kind: str
    mode: str
    way: str | None
    room: RoomView | None
    is_paused: bool
    is_late: bool
    asked_by: str
    from_weights: str
    to_weights: str
    checkpoint: str
    backup: str | None
    digest: str | None
    shipped_bytes: int | None
    canary_accuracy: float | None
    closed_s: float | None
    checks: tuple[CheckView, ...] | None
    observe_s: float
    trigger: str | None
    reason: str
    trace_id: str | None
    asked_unix_s: float
    stages: tuple[StageView, ...]


class RolloutsView(_View):
    """Newest first. `next` is the `before` of the next page, None at the end."""

    rollouts: tuple[RolloutView, ...]
    next: int | None


def view_of(record: Record) -> RolloutView:
    learned, shipped = record.learned, record.learned.shipped
    room = learned.room
    return RolloutView(
        deployment_id=record.id,
        checkpoint_step=record.new.step,
        score=record.score,
        config_hash=record.config_hash,
        git_commit=record.git_commit,
        transfer_duration_sec=shipped.duration_s if shipped else None,
        reload_vram_gb=learned.vram_bytes / GIB if learned.vram_bytes is not None else None,
        status=record.stage.value,
        model=record.model,
        kind=record.kind.value,
        mode=record.mode.value,
        way=learned.way.value if learned.way else None,
        room=RoomView(needed_bytes=room.needed_bytes, free_bytes=room.free_bytes, fits=room.fits) if room else None,
        is_paused=record.is_held,
        is_late=record.is_late,
        asked_by=record.by,
        from_weights=record.old.version,
        to_weights=record.new.version,
        checkpoint=record.new.path.rpartition("/")[2],
        backup=learned.backup,
        digest=shipped.digest if shipped else None,
        shipped_bytes=shipped.num_bytes if shipped else None,
        canary_accuracy=learned.canary_accuracy,
        closed_s=learned.closed_s,
        checks=None if learned.checks is None else tuple(_check_view(one) for one in learned.checks),
        observe_s=record.observe_s,
        trigger=record.trigger.value if record.trigger else None,
        reason=record.reason,
        trace_id=record.trace_id,
        asked_unix_s=record.asked_unix_s,
        stages=_times(record),
    )


def _check_view(found: CheckFound) -> CheckView:
    return CheckView(check=found.check, status=found.passed.value, measured=found.measured, reason=found.reason)


def _times(record: Record) -> tuple[StageView, ...]:
    """The stage it is in has no end yet: its time is what was seen of it so far."""
    times = [StageView(stage=one.stage, began_unix_s=one.began_unix_s, spent_s=one.spent_s) for one in record.stages]
    if times and not record.is_over:
        times[-1] = times[-1].model_copy(update={"spent_s": record.spent_s})
    return tuple(times)
