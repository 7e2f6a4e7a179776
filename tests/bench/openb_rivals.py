"""What the heuristic is held against: best-fit, and fragmentation gradient descent (FGD) written from its paper.

Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
USENIX ATC 2023. Scores are whole numbers from 0 to 100, ties go to the earlier node of an order drawn per seed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from placement.ask import Ask, EmptyNode, Seat
from placement.lookahead import Gaps
from placement.rooms import Option, Room, Rooms, gap_choices, gaps_after

MOST_CPU_MILLIS = 128_000
MOST_DEVICE_MILLIS = 8_000
"""Of one node: what best-fit divides by."""

TYPICAL_COVER = 0.95
"""Of all pods; the most frequent kinds that reach it are typical."""


class _Typical(NamedTuple):
    cpu_millis: int
    num_devices: int
    device_millis: int
    device_types: tuple[str, ...]


class BestFit:
    """Least left of cores and devices together, then the tightest device."""

    def __init__(self, nodes: Sequence[EmptyNode]) -> None:
        self._rooms = Rooms(nodes, best_fit)

    def place(self, ask: Ask) -> Seat | None:
        return self._rooms.take(ask)


class Fgd:
    """The node and device whose fragmentation grows least, measured by the pods typical of the whole workload."""

    def __init__(self, nodes: Sequence[EmptyNode], pods: Sequence[Ask]) -> None:
        self._rooms = Rooms(nodes, self.option)
        self._typical = _typical(pods)
        self._fragments: dict[tuple[str, Gaps, int], float] = {}

    def place(self, ask: Ask) -> Seat | None:
        return self._rooms.take(ask)

    def option(self, room: Room, ask: Ask) -> Option:
        """Between devices of equal score the tightest; the paper leaves it open, and it changes no figure by 0.02."""
        before = self.fragment_millis(room.device_type, room.gaps, room.cpu_millis)
        return max(
            (self._scored(before, room, ask, gap) for gap in gap_choices(room.gaps, ask)),
            key=lambda option: (option.score, -option.gap),
        )

    def fragment_millis(self, device_type: str, gaps: Gaps, cpu_millis: int) -> float:
        """Free millis a typical pod cannot use: all where it cannot run or wants no device, else what is too small."""
        key = device_type, gaps, cpu_millis
        fragment = self._fragments.get(key)
        if fragment is None:
            fragment = self._fragments[key] = self._fragment(device_type, gaps, cpu_millis)
        return fragment

    def _scored(self, before: float, room: Room, ask: Ask, gap: int) -> Option:
        gaps, cpu_millis = gaps_after(room.gaps, ask, gap), room.cpu_millis - ask.cpu_millis
        grown = self.fragment_millis(room.device_type, gaps, cpu_millis) - before
        return Option(int(100 / (1 + math.exp(grown / 1000))), gap)

    def _fragment(self, device_type: str, gaps: Gaps, cpu_millis: int) -> float:
        up_to, fragment = [0, *accumulate(gaps)], 0.0
        for kind, frequency in self._typical:
            too_small = bisect_left(gaps, kind.device_millis)
            runs = (
                kind.num_devices
                and kind.cpu_millis <= cpu_millis
                and len(gaps) - too_small >= kind.num_devices
                and (not kind.device_types or device_type in kind.device_types)
            )
            fragment += frequency * (up_to[too_small] if runs else up_to[-1])
        return fragment


def best_fit(room: Room, ask: Ask) -> Option:
    cpu_left = (room.cpu_millis - ask.cpu_millis) / MOST_CPU_MILLIS
    devices_left = (sum(room.gaps) - ask.total_device_millis) / MOST_DEVICE_MILLIS
    return Option(int(100 * (1 - (0.5 * cpu_left + 0.5 * devices_left))), min(gap_choices(room.gaps, ask)))


def _typical(pods: Sequence[Ask]) -> list[tuple[_Typical, float]]:
    """Most frequent kinds and their frequencies, which sum to 1. Host memory tells no two kinds apart."""
    counts = Counter(_Typical(pod.cpu_millis, pod.num_devices, pod.device_millis, pod.device_types) for pod in pods)
    chosen, covered = list[tuple[_Typical, int]](), 0
    for kind, count in sorted(counts.items(), key=lambda item: (item[1], item[0]), reverse=True):
        if covered >= TYPICAL_COVER * len(pods):
            break
        chosen.append((kind, count))
        covered += count
    return [(kind, count / covered) for kind, count in chosen]
