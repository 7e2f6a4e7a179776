"""From a relaxed program to whole devices: decide the most certain columns, solve again, until all is decided.

A dive that can no longer beat what is known is left, and the next one begins with other choices: the numbers that
break ties depend on the seed and the number of the dive alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from placement.columns import Column, Work
from placement.fill import Fineness
from placement.master import Master, Relaxed

SURE = 0.5
"""Of a column that is not whole, at least so much must be wanted for more than one to be decided at once."""
BATCH = 12
"""One in so many of the devices still to be decided may be decided in one step."""
NOISE = 0.2

Decided = tuple[tuple[Column, int], ...]
Step = list[tuple[Column, int]]
"""Columns decided at once, and how many devices each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dive:
    """`seed` and `number` break ties: dive 0 goes by the program alone. It seeks columns as finely as told."""

    master: Master
    seed: int
    number: int
    fineness: Sequence[Fineness]
    is_hasty: bool

    def run(self, work: Work, *, above: int, target: int) -> Decided | None:
        """Columns and how many devices each, worth more than `above`; None when this dive finds none.

        Worth more than `target` is not hoped for.
        """
        steps = list[Step]()
        try:
            reached = self._descend(steps, work, above, target)
            return tuple(decided for step in steps for decided in step) if reached else None
        finally:
            for step in steps:
                self._fix(step, -1)

    def _descend(self, steps: list[Step], work: Work, above: int, target: int) -> bool:
        """True when nothing is left to decide. A step that decided too much at once is taken back and halved."""
        while not work.is_done:
            state = self.master.relax(work, enough=above, until=target, fineness=self.fineness, is_hasty=self.is_hasty)
            if state is not None and state.value + 1e-6 >= above + 1:
                step = self._chosen(state)
                if not step:
                    return True
            elif steps and _size(steps[-1]) > 1:
                undone = steps.pop()
                self._fix(undone, -1)
                step = _half(undone)
            else:
                return False
            self._fix(step, 1)
            steps.append(step)
        return False

    def _fix(self, step: Step, sign: int) -> None:
        for column, times in step:
            self.master.fix(column, sign * times)

    def _chosen(self, state: Relaxed) -> Step:
        """Whole devices of columns if there are any, or else the columns most wanted."""
        wanted = [(a, c) for a, c in zip(state.amounts, self.master.columns, strict=False) if a > 1e-6]
        wanted.sort(key=self._certainty)
        whole = [(column, int(amount + 1e-6)) for amount, column in wanted if amount >= 1 - 1e-6]
        if whole:
            return whole if not self.number else whole[: 1 + len(whole) // 2]
        most = max(1, int(sum(amount for amount, _ in wanted)) // BATCH)
        left = {number: self.master.left_of(number) for number in range(len(self.master.kinds))}
        step: Step = []
        for position, (amount, column) in enumerate(wanted):
            if position >= most or (position and amount < SURE):
                break
            if position == 0 or all(count <= left[number] for number, count in column.fill):
                for number, count in column.fill:
                    left[number] -= count
                step.append((column, 1))
        return step

    def _certainty(self, wanted: tuple[float, Column]) -> tuple[float, Column]:
        """Smaller is surer."""
        amount, column = wanted
        noise = crc32(repr((self.seed, self.number, column)).encode()) / 2**32 * NOISE if self.number else 0.0
        return (-round(amount + noise, 9), column)


def _size(step: Step) -> int:
    return sum(times for _, times in step)


def _half(step: Step) -> Step:
    """The first of what was decided: of the columns, or of the devices where there is but one."""
    if len(step) > 1:
        return step[: len(step) // 2]
    (column, times), *_ = step
    return [(column, times // 2)]
