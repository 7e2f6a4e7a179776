"""What one fault did to one side, and a row of the table: both sides beside the figure they are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tests.bench.faults.clients import Answer, Ending
from tests.bench.faults.sides import Side

Fault = TypeVar("Fault")
_MOST_SAID = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`asked` 0: nothing was counted and `saw` says all.

    `bad_for_s` is from the fault to the end of the last bad answer, 0 without one; `whole_after_s` until everything
    that died was there again, None where nothing had to be replaced or it was not back in time (`saw` says so).
    """

    asked: int = 0
    failed: int = 0
    bad_for_s: float | None = None
    whole_after_s: float | None = None
    saw: str = ""
    engine: str = "vLLM"
    said: tuple[str, ...] = ()
    """The different texts of bad answers, a few."""


Live = Callable[[Side], Outcome]
Alone = Callable[[], Outcome]
"""Starts what it needs itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Generic[Fault]):
    """One fault. A side that is a text cannot be compared, and the text says why."""

    number: int
    fault: str
    promise: str
    base: Fault | str
    product: Fault | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    number: int
    fault: str
    promise: str
    base: Outcome
    product: Outcome


def counted(
    answers: Sequence[Answer], *, fault_s: float, whole_after_s: float | None = None, note: str = ""
) -> Outcome:
    bad = [answer for answer in answers if answer.ending is not Ending.WHOLE]
    return Outcome(
        asked=len(answers),
        failed=len(bad),
        bad_for_s=max((answer.ended_s - fault_s for answer in bad), default=0.0),
        whole_after_s=whole_after_s,
        saw="; ".join(part for part in (_told(bad), note) if part),
        said=tuple(dict.fromkeys(answer.said for answer in bad if answer.said))[:_MOST_SAID],
    )


def _told(bad: Sequence[Answer]) -> str:
    """Such as `2 refused, no Retry-After (500)`."""
    kinds = Counter(
        answer.ending.value + (f" ({answer.status})" if answer.status not in (0, 200) else "") for answer in bad
    )
    return "; ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    head = "| # | fault | plain Ray Serve | Headroom | threats.md: base → aim |\n|---|---|---|---|---|"
    lines = [
        f"| {row.number} | {row.fault} | {_cell(row.base)} | {_cell(row.product)} | {row.promise} |" for row in rows
    ]
    return "\n".join([head, *lines])


def _cell(outcome: Outcome) -> str:
    parts = []
    if outcome.asked:
        parts.append(f"{outcome.failed}/{outcome.asked} failed")
    if outcome.bad_for_s:
        parts.append(f"last bad answer after {outcome.bad_for_s:.1f} s")
    if outcome.whole_after_s is not None:
        parts.append(f"whole again after {outcome.whole_after_s:.1f} s")
    if outcome.saw:
        parts.append(outcome.saw)
    if outcome.engine != "vLLM":
        parts.append(f"engine: {outcome.engine}")
    return "; ".join(parts)
