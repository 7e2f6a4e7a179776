"""How many tasks of the test set were answered right, in all and by kind, and how sure that figure is.

Pure: texts in, scores out. Who answered (a live API, a model in this process) is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serve_app.training.tasks import Task, TaskKind, grade

Z_95: Final = 1.959964
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """`low` and `high` are the ends of the 95 % interval of the accuracy."""

    num_right: int
    num_asked: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_asked if self.num_asked else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """`by_kind` holds only kinds that were asked."""

    total: Score
    by_kind: dict[TaskKind, Score]


def evaluate(answers: Iterable[tuple[Task, str]]) -> Evaluation:
    """Grades each answer and counts."""
    graded = [(task.kind, grade(task, text)) for task, text in answers]
    kinds = [kind for kind in TaskKind if any(kind is asked for asked, _ in graded)]
    return Evaluation(
        total=score([right for _, right in graded]),
        by_kind={kind: score([right for asked, right in graded if asked is kind]) for kind in kinds},
    )


def score(graded: list[bool]) -> Score:
    low, high = wilson_interval(sum(graded), len(graded))
    return Score(num_right=sum(graded), num_asked=len(graded), low=low, high=high)


def wilson_interval(num_right: int, num_asked: int) -> tuple[float, float]:
    """95 % interval of a share by Wilson's score; (0, 1) when nothing was asked.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if num_asked == 0:
        return 0.0, 1.0
    share, square = num_right / num_asked, Z_95**2
    middle = share + square / (2 * num_asked)
    spread = Z_95 * math.sqrt(share * (1 - share) / num_asked + square / (4 * num_asked**2))
    scale = 1 + square / num_asked
    low = (middle - spread) / scale if num_right else 0.0
    high = (middle + spread) / scale if num_right < num_asked else 1.0
    return low, high  # the ends are exact where rounding would miss them
