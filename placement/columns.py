"""The words of the packing program: how many devices of each sort get which pattern.

A `Kind` is a number of replicas that are alike, a `Sort` a number of devices that are alike, a pattern what one device
of a sort holds. Knows nothing of demands, priorities or goals: an `Aim` says what is worth what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from placement.deadline import NO_DEADLINE, Deadline
from placement.fill import Fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`num` replicas, at most `most` of them on one device; `num_running` of them run already."""

    rest_bytes: int
    start_bytes: int
    num: int
    most: int
    num_running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """`num` devices with `room` bytes, before the largest start, and a neighbour's `start` on each of them.

    `takes` are the numbers of the kinds that may lie there; `is_open` where a share lies already.
    """

    room: int
    start: int
    num: int
    takes: frozenset[int]
    is_open: bool = False


class Worth(NamedTuple):
    """What a replica of each kind counts: one of those running, and one that is new."""

    running: tuple[int, ...]
    new: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """Greatest `worth` less `per_device` for every device opened, while each of `held` stays at least at its value."""

    worth: Worth
    per_device: int = 0
    held: tuple[tuple[Worth, int], ...] = ()


class Column(NamedTuple):
    sort: int
    fill: Fill


@dataclass(slots=True)
class Work:
    """What may still be spent, in thousands of steps of the searches for fills and of the program.

    What is spent of a part is spent of the `whole` too. When the `deadline` is over, nothing is left.
    """

    left: int
    whole: Work | None = None
    deadline: Deadline = NO_DEADLINE

    def spend(self, num: int) -> None:
        self.left -= num
        if self.whole is not None:
            self.whole.spend(num)

    def part(self, num: int, *, of: int) -> Work:
        """So many of even parts of what is left."""
        return Work(self.left * num // of, self, self.deadline)

    @property
    def is_done(self) -> bool:
        return self.left <= 0 or self.deadline.is_over
