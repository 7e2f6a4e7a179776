"""Forecast: risk, time to critical and advice from what polls of a device saw."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.device_history import MAX_PRESENCES, DeviceHistory, update
from placement.forecast import NoForecast, forecast, risk_permille, should_preempt
from placement.lane import COARSE_S, COARSE_WINDOW_S, FINE_S, FINE_WINDOW_S, MARKS_WINDOW_S
from placement.outlook import ForecastPolicy, Signal
from placement.signals import Poll
from tests.placement.polls import every, history, signals, silence, told

HOUR_S = 3600.0
PER_MIN = 1 / 60
slopes_per_min = st.floats(0.02, 2.0)
levels_c = st.floats(40, 110)


def rising(start_c: float, per_min: float, *, seed: int = 0, noise_c: float = 0.0) -> DeviceHistory:
    """40 minutes of it; noise depends on the seed alone."""
    rng = random.Random(seed)
    noise = [rng.gauss(0, noise_c) for _ in range(241)]
    return every(
        10,
        until_s=2400,
        poll=lambda t: signals(temperature_c=start_c + per_min * t * PER_MIN + noise[int(t // 10)]),
    )


def risk_of(found: DeviceHistory, signal: Signal) -> float:
    return next(outlook.risk for outlook in told(found).outlooks if outlook.signal is signal)


class TestTimeToCritical:
    def test_the_sentence_of_the_specification(self) -> None:
        found = told(rising(55, 0.5))
        assert found.advice == "GPU-0: 75 °C, +0.5 °C/min, critical 85 °C in 20 min: move within 15 min"
        assert found.row == "risk 1.00, 85 °C in 20 min"
        assert found.leading_signal is Signal.TEMPERATURE

    @given(start_c=st.floats(30, 60), per_min=st.floats(0.1, 0.6))
    def test_is_the_true_crossing_of_a_line_without_noise(self, start_c: float, per_min: float) -> None:
        found = told(rising(start_c, per_min)).outlooks
        temperature = next(outlook for outlook in found if outlook.signal is Signal.TEMPERATURE)
        true_s = (85 - start_c) / per_min * 60 - 2400
        if true_s <= 6 * HOUR_S:
            assert temperature.time_to_critical_s == pytest.approx(true_s, rel=1e-6, abs=0.01)
        else:
            assert temperature.time_to_critical_s is None

    @given(seed=st.integers(0, 50))
    def test_lies_within_its_interval(self, seed: int) -> None:
        found = told(rising(55, 0.5, seed=seed, noise_c=1.0))
        assert found.time_to_critical_s is not None
        assert found.interval_s is not None
        assert found.interval_s[0] <= found.time_to_critical_s <= found.interval_s[1]

    def test_is_zero_beyond_the_limit(self) -> None:
        found = told(rising(90, 0.0))
        assert found.time_to_critical_s == 0
        assert found.confidence == pytest.approx(1.0, abs=0.01)
        assert found.advice.endswith("critical 85 °C now: move now")

    @pytest.mark.parametrize("per_min", [0.0, -0.5])
    def test_there_is_none_on_a_flat_or_falling_line(self, per_min: float) -> None:
        found = told(rising(75, per_min))
        assert found.time_to_critical_s is None
        assert found.risk < 0.01
        assert found.advice.endswith("nothing to do")

    def test_every_third_sample_is_enough(self) -> None:
        found = history((t, signals(temperature_c=55 + t / 120)) for t in range(0, 2401, 5) if t * 7919 % 3 == 0)
        assert told(found, now_s=2400).time_to_critical_s == pytest.approx(1200, abs=1)

    def test_a_few_wild_samples_do_not_move_it(self) -> None:
        wild = every(10, until_s=2400, poll=lambda t: signals(temperature_c=0 if t % 600 == 300 else 55 + t / 120))
        assert told(wild).time_to_critical_s == pytest.approx(1200, rel=0.1)


class TestRisk:
    @settings(deadline=None, max_examples=40)
    @given(start_c=levels_c, one=slopes_per_min, other=slopes_per_min, seed=st.integers(0, 20))
    def test_lies_in_0_to_1_and_never_falls_with_the_slope(
        self, start_c: float, one: float, other: float, seed: int
    ) -> None:
        end_c = start_c  # the same level now, reached more or less steeply
        risks = [told(rising(end_c - per_min * 40, per_min, seed=seed, noise_c=1.0)).risk for per_min in (one, other)]
        assert all(0 <= risk <= 1 for risk in risks)
        assert (risks[0] - risks[1]) * (one - other) >= -1e-9

    @settings(deadline=None, max_examples=40)
    @given(one=levels_c, other=levels_c, per_min=st.floats(-0.5, 0.5), seed=st.integers(0, 20))
    def test_never_falls_with_the_level(self, one: float, other: float, per_min: float, seed: int) -> None:
        risks = [told(rising(start_c, per_min, seed=seed, noise_c=1.0)).risk for start_c in (one, other)]
        assert (risks[0] - risks[1]) * (one - other) >= -1e-9

    def test_never_falls_with_the_horizon(self) -> None:
        found = rising(60, 0.4, noise_c=1.0)
        risks = [told(found, horizon_s=minutes * 60).risk for minutes in (1, 10, 20, 30, 60, 600)]
        assert all(earlier <= later for earlier, later in pairwise(risks))
        assert risks[0] < 0.1 < 0.5 < risks[-1]

    @pytest.mark.parametrize("seed", range(10))
    def test_noise_around_a_warm_level_alarms_nobody(self, seed: int) -> None:
        assert told(rising(76, 0.0, seed=seed, noise_c=2.0)).risk < 0.1

    def test_a_load_that_begins_is_no_fault(self) -> None:
        """40 °C to 78 °C within minutes, with the power that explains it."""

        def poll(t: float) -> Poll:
            load = 0.0 if t < 3600 else 1 - 2 ** (-(t - 3600) / 60)
            return signals(temperature_c=40 + 38 * load, power_w=80.0 if t < 3600 else 380.0)

        assert max(told(every(10, until_s=3600 + after, poll=poll)).risk for after in range(0, 3600, 120)) < 0.2

    def test_the_same_rise_at_equal_power_is_one(self) -> None:
        def poll(t: float) -> Poll:
            return signals(temperature_c=60 + max(0.0, t - 3600) * 2 / 60, power_w=380.0)

        assert told(every(10, until_s=3600 + 9 * 60, poll=poll)).risk > 0.8

    def test_a_device_at_its_power_limit_just_works(self) -> None:
        assert told(every(10, until_s=7200, poll=lambda t: signals(power_w=400 + 8 * (t % 20 == 0)))).risk < 0.01

    def test_power_that_creeps_past_its_limit_is_told(self) -> None:
        found = told(every(60, until_s=7200, poll=lambda t: signals(power_w=380 + t / 120)))
        assert found.leading_signal is Signal.POWER
        assert found.time_to_critical_s == pytest.approx(1200, rel=0.01)
        assert "power at 110 % of its limit" in found.advice

    def test_a_policy_may_name_another_limit(self) -> None:
        found = forecast(rising(76, 0.0), now_s=2400, policy=ForecastPolicy(critical_c=70))
        assert risk_permille(found) == 1000

    def test_a_device_that_names_no_limit_is_held_to_the_usual_one(self) -> None:
        found = told(every(10, until_s=2400, poll=lambda _: signals(temperature_c=91.0, slowdown_c=None)))
        assert "critical 85 °C now" in found.advice


class TestCounters:
    @given(one=st.integers(0, 50), other=st.integers(0, 50))
    def test_more_errors_are_no_less_risk(self, one: int, other: int) -> None:
        storms = [
            history((60.0 * minute, signals(ecc_corrected=each * minute)) for minute in range(31))
            for each in (one, other)
        ]
        risks = [risk_of(storm, Signal.ECC_CORRECTED) for storm in storms]
        assert (risks[0] - risks[1]) * (one - other) >= 0

    def test_a_steady_storm_is_told_and_one_burst_is_not_enough(self) -> None:
        storm = told(every(5, until_s=1800, poll=lambda t: signals(ecc_corrected=int(t // 10))))
        burst = told(every(5, until_s=1800, poll=lambda t: signals(ecc_corrected=20 if t > 1500 else 0)))
        assert should_preempt(storm)
        assert storm.leading_signal is Signal.ECC_CORRECTED
        assert not should_preempt(burst)

    def test_a_counter_that_restarts_with_its_driver_counts_no_backlog(self) -> None:
        found = every(5, until_s=1800, poll=lambda t: signals(ecc_corrected=900_000 if t < 900 else 2))
        assert risk_of(found, Signal.ECC_CORRECTED) < 0.1

    def test_an_old_storm_is_forgotten(self) -> None:
        found = every(60, until_s=3 * HOUR_S, poll=lambda t: signals(pcie_replays=min(int(t), 2000)))
        assert risk_of(found, Signal.PCIE_REPLAYS) == 0


class TestSilence:
    def test_three_failed_polls_are_enough_and_one_is_not(self) -> None:
        polls: list[tuple[float, Poll]] = [(t * 5.0, signals()) for t in range(100)]
        ends = [history(polls + [(500 + n * 5.0, silence()) for n in range(failed)]) for failed in (1, 3)]
        assert [should_preempt(told(end)) for end in ends] == [False, True]
        assert "3 of the last polls failed: move now" in told(ends[1]).advice

    def test_needs_no_history(self) -> None:
        assert told(history([(0.0, silence()), (5.0, silence())])).risk == pytest.approx(1 - 2 ** -(4 / 3))

    @settings(deadline=None)
    @given(
        failed=st.lists(st.booleans(), min_size=1, max_size=20),
        gone=st.lists(
            st.sampled_from([(), ("power_w",), ("power_w", "temperature_c", "utilization")]), min_size=20, max_size=20
        ),
        lost=st.integers(0, 19),
    )
    def test_a_missing_sample_never_lowers_it(self, failed: list[bool], gone: list[tuple[str, ...]], lost: int) -> None:
        """Neither a poll that fails instead, nor a good poll that never took place."""
        before_all: list[tuple[float, Poll]] = [(-400.0, signals()), (-5.0, signals())]
        polls: list[tuple[float, Poll]] = [
            (index * 5.0, silence() if fails else signals(**dict.fromkeys(gone[index])))
            for index, fails in enumerate(failed)
        ]
        lost %= len(polls)
        before = risk_of(history([*before_all, *polls]), Signal.SILENCE)
        polls[lost] = (polls[lost][0], silence())
        assert risk_of(history([*before_all, *polls]), Signal.SILENCE) >= before
        if not failed[lost] and not gone[lost]:
            del polls[lost]
            assert risk_of(history([*before_all, *polls]), Signal.SILENCE) >= before

    def test_a_reading_the_device_never_gave_is_not_missed(self) -> None:
        found = every(5, until_s=600, poll=lambda _: signals(pcie_replays=None, ecc_corrected=None))
        assert risk_of(found, Signal.SILENCE) == 0

    def test_readings_that_vanish_are(self) -> None:
        gone = signals(temperature_c=None, power_w=None, utilization=None, ecc_corrected=None, pcie_replays=None)
        found = every(5, until_s=600, poll=lambda t: signals() if t < 580 else gone)
        assert told(found).leading_signal is Signal.SILENCE
        assert told(found).risk > 0.8

    def test_not_a_number_is_no_reading(self) -> None:
        found = every(5, until_s=600, poll=lambda t: signals(temperature_c=60.0 if t < 550 else float("nan")))
        assert risk_of(found, Signal.SILENCE) > 0
        assert risk_of(found, Signal.TEMPERATURE) < 0.01

    def test_a_watch_that_was_away_is_no_fault_of_the_device(self) -> None:
        found = history([(t * 5.0, signals()) for t in range(200)] + [(3000 + t * 5.0, signals()) for t in range(3)])
        assert told(found).risk < 0.01


class TestNoForecast:
    def test_of_too_little_data_says_so(self) -> None:
        answer = forecast(every(5, until_s=60, poll=lambda _: signals()), now_s=60)
        assert answer == NoForecast(device="GPU-0", reason="seen for 60 s; a trend needs at least 300 s")

    def test_what_is_bad_already_needs_no_trend(self) -> None:
        assert should_preempt(told(every(5, until_s=60, poll=lambda _: signals(temperature_c=92.0))))

    def test_of_an_old_history_says_so(self) -> None:
        answer = forecast(rising(55, 0.5), now_s=2400 + 301)
        assert answer == NoForecast(device="GPU-0", reason="last polled 301 s ago; at most 300 s")

    def test_weighs_nothing_and_preempts_nobody(self) -> None:
        answer = forecast(rising(55, 0.5), now_s=9999)
        assert (risk_permille(answer), should_preempt(answer), risk_permille(None)) == (0, False, 0)


class TestHistory:
    @settings(deadline=None)
    @given(data=st.data())
    def test_the_order_of_polls_at_one_time_does_not_matter(self, data: st.DataObject) -> None:
        poll = st.one_of(
            st.just(silence()),
            st.builds(
                lambda c, n, limit: signals(temperature_c=float(c), ecc_corrected=n, slowdown_c=limit),
                st.integers(40, 90), st.integers(0, 9), st.sampled_from([None, 80.0, 85.0]),
            ),
        )  # fmt: skip
        groups = data.draw(st.lists(st.lists(poll, min_size=1, max_size=4), min_size=1, max_size=15))
        shuffled = [data.draw(st.permutations(group)) for group in groups]
        ends = [
            history((index * 30.0, poll) for index, group in enumerate(one) for poll in group)
            for one in (groups, shuffled)
        ]
        assert ends[0] == ends[1]

    @settings(deadline=None, max_examples=10)
    @given(step_s=st.sampled_from([0.5, 1, 5, 61, 400, 5000]), num_polls=st.integers(1, 1500))
    def test_is_bounded_whatever_the_pace(self, step_s: float, num_polls: int) -> None:
        found = every(step_s, until_s=step_s * num_polls, poll=lambda t: signals(ecc_corrected=int(t)))
        assert found.ecc_corrected is not None
        for lane in (found.temperature, found.power):
            assert len(lane.fine) <= FINE_WINDOW_S / FINE_S + 1
            assert len(lane.coarse) <= COARSE_WINDOW_S / COARSE_S + 1
        assert len(found.ecc_corrected.marks) <= MARKS_WINDOW_S / FINE_S + 2
        assert len(found.presences) <= MAX_PRESENCES

    def test_a_poll_older_than_the_last_changes_nothing(self) -> None:
        found = rising(55, 0.5)
        assert update(found, silence(), 100.0) is found
