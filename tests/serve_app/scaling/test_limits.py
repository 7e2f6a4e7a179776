"""Cost schedules: other limits while a cron window is open."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from serve_app.scaling.limits import LimitsNow, limits_at
from serve_app.scaling.policy import ScalingPolicy
from serve_app.scaling.rules import Limits, ScalingSettings, Schedule
from tests.serve_app.scaling.feeding import GATEWAY, MIDNIGHT, MINI, Feed, sample

NIGHT = Schedule(
    name="night",
    target="mini",
    cron="0 22 * * *",
    duration_s=8 * 3600,
    timezone="UTC",
    limits=Limits(min_replicas=1, max_replicas=1),
)
SETTINGS = ScalingSettings(limits={"mini": Limits(min_replicas=2, max_replicas=6)}, schedules=(NIGHT,))


class TestASchedule:
    def test_replaces_the_limits_while_it_is_open(self) -> None:
        at_night = limits_at(SETTINGS, MINI, configured=2, at=MIDNIGHT + timedelta(hours=5, minutes=59))
        assert at_night == LimitsNow(min_replicas=1, max_replicas=1, schedule="night")
        by_day = limits_at(SETTINGS, MINI, configured=2, at=MIDNIGHT + timedelta(hours=6))
        assert by_day == LimitsNow(min_replicas=2, max_replicas=6)

    def test_leaves_other_targets_alone(self) -> None:
        assert limits_at(SETTINGS, GATEWAY, configured=3, at=MIDNIGHT).max_replicas == 3

    def test_that_gives_one_limit_keeps_the_other_where_it_can(self) -> None:
        more = replace(SETTINGS, schedules=(replace(NIGHT, limits=Limits(min_replicas=9)),))
        assert limits_at(more, MINI, configured=2, at=MIDNIGHT).max_replicas == 9
        fewer = replace(SETTINGS, schedules=(replace(NIGHT, limits=Limits(max_replicas=1)),))
        assert limits_at(fewer, MINI, configured=2, at=MIDNIGHT).min_replicas == 1

    def test_named_last_wins(self) -> None:
        late = replace(NIGHT, name="late", limits=Limits(min_replicas=3, max_replicas=3))
        both = replace(SETTINGS, schedules=(NIGHT, late))
        assert limits_at(both, MINI, configured=2, at=MIDNIGHT) == LimitsNow(
            min_replicas=3, max_replicas=3, schedule="late"
        )

    def test_brings_the_count_down_and_up_again_one_cooldown_apart(self) -> None:
        feed = Feed(policy=ScalingPolicy(SETTINGS))
        feed.see(sample(MINI, 3))
        feed.hold(sample(MINI, 2), 180)
        assert feed.moves() == [(3, 2), (2, 1)]
        assert "schedule 'night'" in feed.decisions[0].reason
        feed.wait(6 * 3600)
        feed.see(sample(MINI, 1))
        assert feed.moves()[-1] == (1, 2)
