"""One stream through one placer: how much is allocated when how much has arrived, and what a decision costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from placement.ask import WHOLE_DEVICE_MILLIS, Ask, NoSeat, Seat
from placement.online_moves import Placed
from tests.bench.openb_trace import Stream

Place = Callable[[Ask], Seat | Placed | NoSeat | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Percent of all device millis allocated when arrived demand is 100 % and 130 % of them."""

    seed: int
    alloc_pct_at_100: float
    alloc_pct_at_130: float
    ms_per_decision: float
    """Time of this process's one thread, so that what else the machine does is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    arrived_pct: float
    alloc_pct: float


def run(stream: Stream, place: Place) -> Run:
    """Places all arrivals in order; what is refused is gone."""
    percent = WHOLE_DEVICE_MILLIS * sum(node.num_devices for node in stream.nodes) / 100
    arrived = allocated = 0
    readings: list[Reading] = []
    took_s = 0.0
    for ask in stream.arrivals:
        arrived += ask.total_device_millis
        before_s = time.thread_time()
        seat = place(ask)
        took_s += time.thread_time() - before_s
        allocated += ask.total_device_millis if isinstance(seat, Seat | Placed) else 0
        readings.append(Reading(arrived_pct=arrived / percent, alloc_pct=allocated / percent))
    return Run(
        seed=stream.seed,
        alloc_pct_at_100=alloc_pct_at(readings, 100),
        alloc_pct_at_130=alloc_pct_at(readings, 130),
        ms_per_decision=1000 * took_s / len(stream.arrivals),
    )


def alloc_pct_at(readings: Sequence[Reading], arrived_pct: int) -> float:
    """Mean over the arrivals at which arrived demand rounds to `arrived_pct`, as the published figures are read.

    Where none does (a trace of few large pods), what is allocated at the last arrival before.
    """
    at = [reading.alloc_pct for reading in readings if round(reading.arrived_pct) == arrived_pct]
    before = [reading.alloc_pct for reading in readings if reading.arrived_pct < arrived_pct]
    return statistics.fmean(at) if at else (before or [0.0])[-1]
