"""What is promised and how it is kept: counts of availability, and what remains of every objective's budget.

How fast a budget burns is worked out in `placement.objectives`; counts are kept in `ops.objective_counts`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Final

from placement.objectives import Burn, Objective, ObjectiveName, burn
from serve_app.config.settings import ObjectivesSettings
from serve_app.controller.availability import Answered, Availability
from serve_app.logs import logger
from serve_app.ops.objective_counts import ObjectiveCounts
from tracing.fleet_metrics import BurnSample, ObjectiveMetrics
from tracing.metrics import Delta

_TURN_S: Final = 60.0
"""Requests are counted in memory meanwhile: a controller that dies takes at most so much with it."""


class Objectives:
    """`settings` are those in force; times are of the wall clock."""

    def __init__(
        self, *, settings: Callable[[], ObjectivesSettings], counts: ObjectiveCounts, metrics: ObjectiveMetrics
    ) -> None:
        self._settings = settings
        self._counts = counts
        self._metrics = metrics
        self._availability = Availability()
        self._uncounted = Answered()

    def saw(self, deltas: Iterable[Delta]) -> None:
        """What gateways report."""
        self._uncounted += self._availability.saw(deltas)

    def burns(self, *, now_s: float) -> tuple[Burn, ...]:
        settings = self._settings()
        wanted = (settings.availability, settings.job_completion_time, settings.alert_response_time)
        return tuple(self._burn(objective, now_s) for objective in wanted)

    async def run(self) -> None:
        while True:
            try:
                self.turn(now_s=time.time())
            except sqlite3.Error as error:
                _log.error("objectives could not be counted, trying again", error=repr(error))
            await asyncio.sleep(_TURN_S)

    def turn(self, *, now_s: float) -> None:
        """Write down what was seen and show what is left. Raises: sqlite3.Error, and then forgets nothing."""
        seen = self._uncounted
        if seen.num_total:
            self._counts.count(ObjectiveName.AVAILABILITY, num_good=seen.num_good, num_total=seen.num_total, at_s=now_s)
            self._uncounted -= seen
        self._metrics.show([_sample(one) for one in self.burns(now_s=now_s)])

    def _burn(self, objective: Objective, now_s: float) -> Burn:
        return burn(objective, self._counts.buckets(objective.name, since_s=now_s - objective.window_s), now_s=now_s)


def _sample(one: Burn) -> BurnSample:
    return BurnSample(
        objective=one.objective.name.value,
        long_rate=one.long_rate,
        short_rate=one.short_rate,
        budget_left=one.budget_left,
    )


_log = logger("headroom.controller")
