"""Backtest: which alarms are right, which failures are caught, and in what time."""

from __future__ import annotations

import pytest

from placement.backtest import Judged, Life, judge, our_detector, replay, score, scores_by_story
from placement.backtest_rivals import least_squares, static_threshold
from placement.signals import Poll
from tests.placement.polls import signals, silence

HORIZON_S = 1800.0


def life(*, failed_s: float | None = 10_000.0, polls: tuple[tuple[float, Poll], ...] = (), story: str = "s") -> Life:
    return Life(device="GPU-0", polls=polls, failed_s=failed_s, story=story)


def judged(*alarms: float, failed_s: float | None = 10_000.0) -> Judged:
    return judge(life(failed_s=failed_s), alarms, seen_s=86_400, horizon_s=HORIZON_S)


class TestAlarm:
    @pytest.mark.parametrize("alarm_s", [8_200.0, 9_000.0, 9_999.0])
    def test_is_right_when_the_device_fails_within_the_horizon(self, alarm_s: float) -> None:
        assert (judged(alarm_s).num_right, judged(alarm_s).num_early) == (1, 0)

    def test_is_wrong_and_early_when_it_fails_later_that_day(self) -> None:
        assert (judged(8_199.0).num_right, judged(8_199.0).num_early) == (0, 1)

    def test_is_wrong_when_nothing_fails(self) -> None:
        assert (judged(9_000.0, failed_s=None).num_right, judged(9_000.0, failed_s=None).num_early) == (0, 0)

    def test_that_leaves_no_time_to_move_catches_nothing(self) -> None:
        assert judged(9_941.0).lead_s is None
        assert judged(9_940.0).lead_s == 60

    def test_gives_the_lead_of_the_first_right_one(self) -> None:
        assert judged(8_000.0, 8_500.0, 9_900.0).lead_s == 1500

    def test_that_goes_on_is_raised_again_each_horizon(self) -> None:
        polls = tuple((t * 60.0, signals(temperature_c=90.0)) for t in range(91))
        found = replay(life(failed_s=None, polls=polls), {"80": static_threshold(80)}, horizon_s=HORIZON_S)
        assert found["80"].num_alarms == 4
        assert found["80"].seen_s == 5400


class TestScore:
    def test_counts_over_lives(self) -> None:
        found = score([judged(9_000.0), judged(), judged(100.0, failed_s=None), judged(9_500.0, 1_000.0)])
        assert (found.num_failures, found.num_caught, found.num_alarms, found.num_right) == (3, 2, 4, 2)
        assert found.recall == pytest.approx(2 / 3)
        assert found.precision == 0.5
        assert found.false_alarms_per_device_day == 0.5
        assert [found.lead_s(fraction) for fraction in (0.1, 0.5, 0.9)] == [500, 500, 1000]

    def test_of_nothing_has_no_figures_rather_than_good_ones(self) -> None:
        empty = score([])
        assert (empty.recall, empty.precision, empty.false_alarms_per_device_day, empty.lead_s(0.5)) == (None,) * 4

    def test_tells_stories_apart(self) -> None:
        lives = [
            judge(life(story=story), alarms, seen_s=1, horizon_s=HORIZON_S)
            for story, alarms in (("b", [9e3]), ("a", []))
        ]
        assert {story: one.num_caught for story, one in scores_by_story(lives).items()} == {"a": 0, "b": 1}


class TestDetectors:
    CREEP = tuple((t * 60.0, signals(temperature_c=60 + t / 4)) for t in range(100))
    """Reaches 85 °C at 6000 s."""

    def test_ours_tells_a_creep_before_it_is_critical(self) -> None:
        ours = {"ours": our_detector(horizon_s=HORIZON_S, threshold=0.8)}
        found = replay(life(failed_s=6_000.0, polls=self.CREEP), ours, horizon_s=HORIZON_S)["ours"]
        assert (found.num_alarms, found.num_right) == (1, 1)
        assert found.lead_s is not None
        assert found.lead_s > 1200

    def test_a_fixed_temperature_alarms_from_there_on(self) -> None:
        alarms = static_threshold(80)
        assert [alarms(signals(temperature_c=value), 0) for value in (79.9, 80.0, None)] == [False, True, False]
        assert not alarms(silence(), 0)

    def test_least_squares_meets_the_limit_on_a_line(self) -> None:
        alarms = least_squares(horizon_s=HORIZON_S)
        first = next(time_s for time_s, poll in self.CREEP if alarms(poll, time_s))
        assert first == pytest.approx(6_000 - HORIZON_S)

    def test_least_squares_needs_points_and_reads_no_silence(self) -> None:
        alarms = least_squares(horizon_s=HORIZON_S)
        polls: list[Poll] = [silence(), *[signals(temperature_c=99.0)] * 4]
        assert not any(alarms(poll, time_s) for time_s, poll in enumerate(polls))
