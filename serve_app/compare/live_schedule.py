"""When the test set is due through the live API, and whether what came of it is a regression. Pure: times are given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from placement.health_rules import Severity
from serve_app.compare.interval import Difference, difference
from serve_app.compare.score import CheckpointScore
from serve_app.training.calibration import Calibration
from serve_app.training.self_correction import SelfCorrection
from tracing.names import Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Either `every_s`, or by `cron` in `timezone`."""

    model: str
    every_s: float | None = None
    cron: str | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        assert (self.every_s is None) is not (self.cron is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRun:
    """The test set as the live API answered it at `at_s`, seconds since 1970, while `weights_version` served.

    `right` may be of the first questions only. `calibration` is None where answers came without log-probabilities.
    """

    model: str
    weights_version: str
    test_set: str
    at_s: float
    right: tuple[bool, ...]
    calibration: Calibration | None
    correction: SelfCorrection

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right) if self.right else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """What serves answers worse than the same weights did when they were compared, beyond noise."""

    run: LiveRun
    recorded: CheckpointScore
    difference: Difference
    rule: Alert = Alert.ROLLOUT_REGRESSION
    severity: Severity = Severity.WARNING

    @property
    def message(self) -> str:
        found = self.difference
        return (
            f"{self.run.model} ({self.run.weights_version}) answers {self.run.accuracy:.1%} of its test set through "
            f"the live API, {self.recorded.accuracy:.1%} when it was compared: {found.num_lost} answers lost, "
            f"{found.num_won} won. Look at `headroom comparisons`, or go back with `headroom rollouts rollback`."
        )


def is_wanted(schedule: Schedule, last: LiveRun | None, *, weights_version: str, now_s: float) -> bool:
    """Weights that were never asked are, whatever the schedule says; `last` is the newest run of the model."""
    if last is None or last.weights_version != weights_version:
        return True
    return is_due(schedule, last_s=last.at_s, now_s=now_s)


def is_due(schedule: Schedule, *, last_s: float | None, now_s: float) -> bool:
    """Also when `last_s` lies ahead: then the clock was set back, and nothing must wait for it to catch up."""
    if last_s is None or last_s > now_s:
        return True
    if schedule.every_s is not None:
        return now_s - last_s >= schedule.every_s
    assert schedule.cron is not None
    now = datetime.fromtimestamp(now_s, UTC).astimezone(ZoneInfo(schedule.timezone))
    just_after = now.replace(microsecond=0) + timedelta(seconds=1)
    opening = next(CronSim(schedule.cron, just_after, reverse=True), None)
    return opening is not None and opening.timestamp() > last_s


def regression(run: LiveRun, recorded: CheckpointScore) -> Regression | None:
    """None when there is none, and when other weights or questions were recorded."""
    if (run.weights_version, run.test_set) != (recorded.weights_version, recorded.test_set):
        return None
    found = difference(run.right, recorded.right[: len(run.right)])
    return Regression(run=run, recorded=recorded, difference=found) if found.high < 0 else None
