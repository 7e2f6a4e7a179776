"""From a relaxed program to whole devices: decide the most certain columns, solve again, until all is decided.

A dive that can no longer beat what is known is left, and the next one begins with other choices: the numbers that
break ties depend on the seed and the number of the dive alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from placement.columns import COARSE, Column, Master, Relaxed, Work

SURE = 0.5
"""Of a column that is not whole, at least so much must be wanted for more than one to be decided at once."""
BATCH = 12
"""One in so many of the devices still to be decided may be decided in one step."""
NOISE = 0.2

Decided = tuple[tuple[Column, int], ...]


@dataclass(frozen=True, slots=True)
class Dive:
    """`seed` and `number` only break ties: dive 0 goes by the program alone."""

    master: Master
    seed: int
    number: int

    def run(self, work: Work, *, above: int, target: int) -> Decided | None:
        """Columns and how many devices each, worth more than `above`; None when this dive finds none.

        Worth more than `target` is not hoped for.
        """
        decided = list[tuple[Column, int]]()
        try:
            return tuple(decided) if self._descend(decided, work, above, target) else None
        finally:
            for column, times in decided:
                self.master.fix(column, -times)

    def _descend(self, decided: list[tuple[Column, int]], work: Work, above: int, target: int) -> bool:
        """True when nothing is left to decide; adds to `decided` on the way."""
        while not work.is_done:
            state = self.master.relax(work, enough=above, until=target, fineness=COARSE, is_hasty=True)
            if state is None or not _could_exceed(state, above):
                return False
            chosen = list(self._choose(state))
            if not chosen:
                return True
            for column, times in chosen:
                self.master.fix(column, times)
            decided += chosen
        return False

    def _choose(self, state: Relaxed) -> Iterator[tuple[Column, int]]:
        """Whole devices of columns if there are any, or else the columns most wanted."""
        wanted = [(a, c) for a, c in zip(state.amounts, self.master.columns, strict=False) if a > 1e-6]
        whole = [(column, int(amount + 1e-6)) for amount, column in wanted if amount >= 1 - 1e-6]
        if whole:
            yield from whole
            return
        most = max(1, int(sum(amount for amount, _ in wanted)) // BATCH)
        left = {number: self.master.left_of(number) for number in range(len(self.master.kinds))}
        for position, (amount, column) in enumerate(sorted(wanted, key=self._certainty)):
            if position >= most or (position and amount < SURE):
                return
            if position == 0 or all(count <= left[number] for number, count in column.fill):
                for number, count in column.fill:
                    left[number] -= count
                yield column, 1

    def _certainty(self, wanted: tuple[float, Column]) -> tuple[float, Column]:
        """Smaller is surer."""
        amount, column = wanted
        noise = crc32(repr((self.seed, self.number, column)).encode()) / 2**32 * NOISE if self.number else 0.0
        return (-round(amount + noise, 9), column)


def _could_exceed(state: Relaxed, above: int) -> bool:
    """A program that stopped short of it was either settled below or proven to be."""
    return state.value + 1e-6 >= above + 1
