"""Which checkpoints must be looked at: what lies on the disk against what is known of it. Pure.

A checkpoint is looked at when its path is new, when its files or its model's test set have changed since, and again
after its job failed, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_ATTEMPTS: Final = 3


class State(StrEnum):
    SCORED = "scored"
    REFUSED = "refused"
    """The checkpoint is at fault."""
    FAILED = "failed"
    """Its job is; `num_attempts` says how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One checkpoint directory as a scan saw it. `stamp` is another one after any change of its files or test set."""

    model: str
    path: str
    stamp: str
    step_in_name: int
    """0 where the name says none; only for the order."""
    deployed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one directory. `reason` is empty when scored; `step` and `weights_version` are None only where
    the directory was refused before they could be read."""

    model: str
    path: str
    stamp: str
    state: State
    step: int | None = None
    weights_version: str | None = None
    test_set: str = ""
    reason: str = ""
    num_attempts: int = 0
    at_s: float = 0.0


def due(seen: Iterable[Seen], known: Mapping[str, Record]) -> tuple[Seen, ...]:
    """What must be looked at, first things first: what serves, then the highest step. `known` is by path."""
    found = [one for one in seen if _is_due(one, known.get(one.path))]
    return tuple(sorted(found, key=lambda one: (not one.deployed, -one.step_in_name, one.path)))


def _is_due(seen: Seen, record: Record | None) -> bool:
    if record is None or record.stamp != seen.stamp:
        return True
    return record.state is State.FAILED and record.num_attempts < MAX_ATTEMPTS
