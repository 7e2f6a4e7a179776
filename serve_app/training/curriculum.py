"""Which tasks are drawn more often, by kind and difficulty: weights made from what a model failed at.

Pure. Holds no task and no subject: what is in the test set can raise the weight of its kind, and never be learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

from serve_app.training.tasks import Task, TaskKind, difficulty, training_tasks

LEAST_WEIGHT: Final = 0.5
MOST_WEIGHT: Final = 3.0
"""Even what never fails is still trained on, and nothing crowds out the rest."""

Cell = tuple[TaskKind, int]
"""A kind with a difficulty (`tasks.difficulty`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """How much more often than usual each cell is drawn; cells that are not named have weight 1."""

    weights: Mapping[Cell, float]

    def weight(self, task: Task) -> float:
        return self.weights.get((task.kind, difficulty(task)), 1.0)

    @property
    def largest(self) -> float:
        return max((*self.weights.values(), 1.0))


EVEN: Final = Curriculum(weights=MappingProxyType({}))
"""Every cell as often as `tasks.TRAINING_SHARES` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often a cell was asked, and answered wrong."""

    kind: TaskKind
    difficulty: int
    num_asked: int
    num_failed: int


def weigh(tallies: Iterable[Tally]) -> Curriculum:
    """Each asked cell by its share of failures over the mean share, inside the bounds; `EVEN` when nothing was asked.

    Shares are smoothed by one right and one wrong answer more, so that one question decides little.
    """
    asked, failed = dict[Cell, int](), dict[Cell, int]()
    for tally in tallies:
        cell = (tally.kind, tally.difficulty)
        asked[cell] = asked.get(cell, 0) + tally.num_asked
        failed[cell] = failed.get(cell, 0) + tally.num_failed
    shares = {cell: (failed[cell] + 1) / (asked[cell] + 2) for cell in sorted(asked) if asked[cell]}
    if not shares:
        return EVEN
    mean = sum(shares.values()) / len(shares)
    return Curriculum(
        weights=MappingProxyType(
            {cell: min(MOST_WEIGHT, max(LEAST_WEIGHT, share / mean)) for cell, share in shares.items()}
        )
    )


def weighted_tasks(seed: int, curriculum: Curriculum) -> Iterator[Task]:
    """`training_tasks`, each let through as often as its cell's weight says; all of them when all weigh alike."""
    rng = Random(f"curriculum {seed}")
    for task in training_tasks(seed):
        if rng.random() * curriculum.largest < curriculum.weight(task):
            yield task
