"""A change of a count as a value: what is wanted, why, and what became of it; and the last of them, bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from serve_app.scaling.rules import Direction, Target

MAX_HISTORY: Final = 200


class Outcome(StrEnum):
    """Values of the label `outcome` of `headroom_scaling_decisions_total`."""

    APPLIED = "applied"
    BLOCKED_BY_HEADROOM = "blocked_by_headroom"
    COOLING_DOWN = "cooling_down"
    AT_LIMIT = "at_limit"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`outcome` is None until it is known: then it is to be carried out."""

    target: Target
    direction: Direction
    from_replicas: int
    to_replicas: int
    reason: str
    outcome: Outcome | None = None
    message: str = ""
    by_hand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A decision and its outcome. The same one again right after is the same record: `times` and `last_at_s` move."""

    decision: Decision
    first_at_s: float
    """Unix time, as `last_at_s`."""
    last_at_s: float
    times: int = 1


@dataclass(slots=True)
class History:
    """The newest records, oldest first. A repeat is known by what it wants and what became of it, not its words."""

    _records: deque[Record] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))

    def add(self, decision: Decision, *, at_s: float) -> bool:
        """False when it repeats what became of this target last."""
        assert decision.outcome is not None, "only what is settled is history"
        for index in range(len(self._records) - 1, -1, -1):
            last = self._records[index]
            if last.decision.target != decision.target:
                continue
            if decision.outcome is Outcome.APPLIED or _what(last.decision) != _what(decision):
                break
            self._records[index] = replace(last, decision=decision, last_at_s=at_s, times=last.times + 1)
            return False
        self._records.append(Record(decision=decision, first_at_s=at_s, last_at_s=at_s))
        return True

    def newest_first(self) -> tuple[Record, ...]:
        return tuple(reversed(self._records))


def _what(decision: Decision) -> tuple[object, ...]:
    return decision.direction, decision.from_replicas, decision.to_replicas, decision.outcome
