"""The twenty checks of row C9 by name, and what each of them can find. Plain values, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_MAX_PROBLEMS: Final = 5
_MAX_REASON_CHARS: Final = 600


class Group(StrEnum):
    DEVICE = "device"
    MODEL = "model"
    SERVICE = "service"
    CROSS_NODE = "cross-node"


class Status(StrEnum):
    PASS = "PASS"  # noqa: S105  # no password
    FAIL = "FAIL"
    SKIP = "SKIP"
    """Not looked at, for the reason given; neither good nor bad."""


class Check(StrEnum):
    """Named `<group>.<what>`."""

    TELEMETRY = "device.telemetry"
    SHARE = "device.share"
    AS_PLANNED = "device.as_planned"
    HEADROOM = "device.headroom"
    IDENTITY = "device.identity"
    LOAD = "model.load"
    UNLOAD = "model.unload"
    RELOAD = "model.reload"
    INFO = "model.info"
    SLEEP_WAKE = "model.sleep_wake"
    CHAT = "service.chat"
    STREAM = "service.stream"
    CACHE = "service.cache"
    METRIC_TRACE = "service.metric_trace"
    ERRORS = "service.errors"
    REACH = "cross-node.reach"
    SHIP = "cross-node.ship"
    REMOTE_ANSWER = "cross-node.remote_answer"
    TAKEOVER = "cross-node.takeover"
    TRACE_CROSSES = "cross-node.trace"

    @property
    def group(self) -> Group:
        return Group(self.value.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`measured` and `limit` are for eyes, with units; `reason` is why it failed or was skipped."""

    status: Status
    measured: str = ""
    limit: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    check: Check
    finding: Finding


def skipped(reason: str, *, measured: str = "") -> Finding:
    return Finding(status=Status.SKIP, measured=measured, reason=reason)


def judged(problems: Sequence[str], *, measured: str, limit: str = "") -> Finding:
    """FAIL with the problems, the first few of them; PASS where there is none."""
    if not problems:
        return Finding(status=Status.PASS, measured=measured, limit=limit)
    rest = f" And {len(problems) - _MAX_PROBLEMS} more." if len(problems) > _MAX_PROBLEMS else ""
    reason = " ".join(problems[:_MAX_PROBLEMS])[:_MAX_REASON_CHARS] + rest
    return Finding(status=Status.FAIL, measured=measured, limit=limit, reason=reason)


def too_slow(what: str, measured_s: float, limit_s: float) -> list[str]:
    """The problem where it took longer than it may, else none."""
    if measured_s <= limit_s:
        return []
    return [f"{what} took {measured_s:.3f} s, expected at most {limit_s:g} s."]


def all_well(outcomes: Sequence[Outcome]) -> bool:
    """Nothing failed, and something was looked at."""
    statuses = {outcome.finding.status for outcome in outcomes}
    return Status.FAIL not in statuses and Status.PASS in statuses
