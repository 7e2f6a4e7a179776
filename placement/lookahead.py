"""What of a node's free devices would stay idle, looking ahead over sampled futures.

For every future the node takes what fits, in order, each part of a device on the tightest one. The mean of what is then
left is the node's *waste*. It sees what a snapshot cannot: that cores run out before devices do, that 190 left on
a device will hardly ever be asked for. Knows free room only, not which node or device it is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import NamedTuple

from placement.ask import WHOLE_DEVICE_MILLIS, Ask
from placement.mix import Futures

CPU_STEP_MILLIS = 2000
MANY_CPU_MILLIS = 32_000
MANY_CPU_STEP_MILLIS = 4000
"""Waste is computed on this grid of free cores, wider where there are many, and drawn straight between."""

MAX_KEPT = 200_000
"""Remembered wastes; past it all are forgotten."""

Gaps = tuple[int, ...]
"""Free millis of a node's devices, ascending, without the full ones."""


class _Arrival(NamedTuple):
    cpu_millis: int
    num_devices: int
    device_millis: int


class _Future(NamedTuple):
    """Arrivals, and sets of their positions as bits.

    `wants_device` are those that want any; `within_gap[i]` those that want at most the i-th smallest part of a device,
    `within_cpu[i]` likewise.
    """

    arrivals: tuple[_Arrival, ...]
    wants_device: int
    within_gap: tuple[int, ...]
    within_cpu: tuple[int, ...]


class _Unbound(NamedTuple):
    """What becomes of gaps when cores are no bound: idle millis and cores taken by future, the mean and the most."""

    outcomes: tuple[tuple[int, int], ...]
    waste_millis: float
    max_cpu_millis: int


class Lookahead:
    """Waste of free room for one device type; the same question has the same answer."""

    def __init__(self, futures: Futures, device_type: str) -> None:
        allowed = [[ask for ask in future if _is_allowed(ask, device_type)] for future in futures]
        asks = [ask for future in allowed for ask in future]
        self._gap_limits = sorted({ask.device_millis for ask in asks})
        self._gap_ranks = [bisect_right(self._gap_limits, gap) for gap in range(WHOLE_DEVICE_MILLIS + 1)]
        self._cpu_limits = sorted({ask.cpu_millis for ask in asks})
        self._futures = [self._prepare(future) for future in allowed]
        self._cpu_of_all = max((sum(ask.cpu_millis for ask in future) for future in allowed), default=0)
        self._useful = _useful_millis({ask.device_millis for ask in asks if ask.num_devices})
        self._unbound: dict[Gaps, _Unbound] = {}
        self._bound: dict[tuple[Gaps, int], float] = {}

    def waste_millis(self, gaps: Gaps, cpu_millis: int) -> float:
        """Device millis that are expected to stay idle of `gaps` with so many cores beside them."""
        usable = self._usable(gaps)
        useless_millis = sum(gaps) - sum(usable)
        return useless_millis + self._waste_of_usable(usable, cpu_millis) if usable else useless_millis

    def _usable(self, gaps: Gaps) -> Gaps:
        """Gaps cut down to what asks can add up to: 70 where only 50 and 810 are ever asked for is as good as 50."""
        useful = self._useful
        usable = [useful[gap] for gap in gaps]
        return tuple(sorted(gap for gap in usable if gap))

    def _waste_of_usable(self, gaps: Gaps, cpu_millis: int) -> float:
        unbound = self._unbound.get(gaps)
        if unbound is None:
            unbound = self._unbound[gaps] = self._fill_unbound(gaps)
        if cpu_millis >= unbound.max_cpu_millis:
            return unbound.waste_millis
        step = CPU_STEP_MILLIS if cpu_millis < MANY_CPU_MILLIS else MANY_CPU_STEP_MILLIS
        rest = cpu_millis % step
        low = self._on_grid(gaps, cpu_millis - rest, unbound)
        return low + (self._on_grid(gaps, cpu_millis - rest + step, unbound) - low) * rest / step if rest else low

    def _on_grid(self, gaps: Gaps, cpu_millis: int, unbound: _Unbound) -> float:
        if cpu_millis >= unbound.max_cpu_millis:
            return unbound.waste_millis
        waste = self._bound.get((gaps, cpu_millis))
        if waste is None:
            if len(self._bound) >= MAX_KEPT:
                self._bound.clear()
                self._unbound.clear()
            waste = self._bound[gaps, cpu_millis] = self._fill(gaps, cpu_millis, unbound)
        return waste

    def _prepare(self, future: list[Ask]) -> _Future:
        arrivals = tuple(_Arrival(ask.cpu_millis, ask.num_devices, ask.device_millis) for ask in future)
        return _Future(
            arrivals,
            _bits(arrival.num_devices > 0 for arrival in arrivals),
            (0, *(_bits(arrival.device_millis <= limit for arrival in arrivals) for limit in self._gap_limits)),
            (0, *(_bits(arrival.cpu_millis <= limit for arrival in arrivals) for limit in self._cpu_limits)),
        )

    def _fill_unbound(self, gaps: Gaps) -> _Unbound:
        if not self._futures:
            return _Unbound((), float(sum(gaps)), 0)
        outcomes = tuple(self._fill_one(future, list(gaps), self._cpu_of_all) for future in self._futures)
        waste = sum(idle for idle, _ in outcomes) / len(outcomes)
        return _Unbound(outcomes, waste, max(taken for _, taken in outcomes))

    def _fill(self, gaps: Gaps, cpu_millis: int, unbound: _Unbound) -> float:
        """Only futures that would take more cores than there are have to be followed again."""
        idle = 0
        for future, (unbound_idle, taken) in zip(self._futures, unbound.outcomes, strict=True):
            idle += unbound_idle if taken <= cpu_millis else self._fill_one(future, list(gaps), cpu_millis)[0]
        return idle / len(self._futures)

    def _fill_one(self, future: _Future, gaps: list[int], cpu_millis: int) -> tuple[int, int]:
        """Idle millis and cores taken after one future. What no longer fits never fits again, so its bit is dropped.

        Written out in one loop: nearly all time of a decision is spent here.
        """
        arrivals, wants_device, within_gap, within_cpu = future
        cpu_limits, gap_ranks, useful = self._cpu_limits, self._gap_ranks, self._useful
        idle, cpu_at_first = sum(gaps), cpu_millis
        ahead = within_gap[gap_ranks[gaps[-1]]] & within_cpu[bisect_right(cpu_limits, cpu_millis)]
        while ahead & wants_device:
            first = ahead & -ahead
            ahead ^= first
            cpu, num_devices, millis = arrivals[first.bit_length() - 1]
            if num_devices == 1:
                left = useful[gaps.pop(bisect_left(gaps, millis)) - millis]
                if left:
                    insort(gaps, left)
            elif num_devices and not _take_whole(gaps, num_devices):
                continue
            idle -= num_devices * millis
            cpu_millis -= cpu
            if not gaps:
                break
            ahead &= within_gap[gap_ranks[gaps[-1]]] & within_cpu[bisect_right(cpu_limits, cpu_millis)]
        return idle, cpu_at_first - cpu_millis


def _take_whole(gaps: list[int], num_devices: int) -> bool:
    """False, and nothing taken, if fewer devices than wanted are wholly free."""
    if len(gaps) - bisect_left(gaps, WHOLE_DEVICE_MILLIS) < num_devices:
        return False
    del gaps[-num_devices:]
    return True


def _useful_millis(asked: set[int]) -> list[int]:
    """By free millis of a device: the most of it that any of these asks together can take."""
    useful = [0] * (WHOLE_DEVICE_MILLIS + 1)
    for millis in range(1, WHOLE_DEVICE_MILLIS + 1):
        useful[millis] = max((part + useful[millis - part] for part in asked if part <= millis), default=0)
    return useful


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << position for position, flag in enumerate(flags) if flag)


def _is_allowed(ask: Ask, device_type: str) -> bool:
    return not ask.num_devices or not ask.device_types or device_type in ask.device_types
