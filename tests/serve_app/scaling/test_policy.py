"""Row B10, line by line, each with silent twins: just inside the bound, and just short of the time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scaling.decision import Outcome
from serve_app.scaling.policy import FORGET_S, MAX_GAP_S, ScalingPolicy
from serve_app.scaling.rules import (
    ENGINE_BANDS,
    GATEWAY_BANDS,
    TRAINER_BANDS,
    Band,
    Direction,
    Kind,
    Limits,
    ScalingSettings,
    Signal,
    Target,
    target_named,
)
from tests.serve_app.scaling.feeding import GATEWAY, MINI, ROOM, STEP_S, TRAINERS, Feed, measured, sample

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of B10: `beyond` is just over the bound, `inside` the bound itself."""

    target: Target
    signal: str
    direction: Direction
    beyond: float
    inside: float
    hold_s: float


UP, DOWN = Direction.UP, Direction.DOWN
LINES = [
    Line(GATEWAY, "cpu", UP, 0.701, 0.70, 3 * MINUTE),
    Line(GATEWAY, "overhead_s", UP, 2.001, 2.0, 5 * MINUTE),
    Line(GATEWAY, "cpu", DOWN, 0.299, 0.30, 10 * MINUTE),
    Line(GATEWAY, "overhead_s", DOWN, 0.499, 0.5, 15 * MINUTE),
    Line(MINI, "queue", UP, 51, 50, 2 * MINUTE),
    Line(MINI, "compute", UP, 0.851, 0.85, 5 * MINUTE),
    Line(MINI, "queue", DOWN, 9, 10, 15 * MINUTE),
    Line(MINI, "compute", DOWN, 0.399, 0.40, 20 * MINUTE),
    Line(TRAINERS, "queued_jobs", UP, 21, 20, 10 * MINUTE),
    Line(TRAINERS, "queued_jobs", DOWN, 4, 5, 30 * MINUTE),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.target.name}-{line.signal}-{line.direction}")
class TestEveryLine:
    def test_changes_the_count_by_one_when_it_has_held(self, line: Line) -> None:
        (decision,) = Feed().hold(measured(line.target, {line.signal: line.beyond}), line.hold_s)
        assert decision.to_replicas == 2 + (1 if line.direction is UP else -1)
        assert decision.direction is line.direction
        assert line.signal in decision.reason
        assert f"{line.hold_s:.0f} s" in decision.reason

    def test_is_silent_a_moment_before(self, line: Line) -> None:
        assert Feed().hold(measured(line.target, {line.signal: line.beyond}), line.hold_s - 0.001) == []

    def test_is_silent_at_the_bound_itself(self, line: Line) -> None:
        assert Feed().hold(measured(line.target, {line.signal: line.inside}), 2 * line.hold_s) == []

    def test_starts_anew_after_one_sample_inside(self, line: Line) -> None:
        feed = Feed()
        feed.hold(measured(line.target, {line.signal: line.beyond}), line.hold_s - 1)
        feed.see(measured(line.target, {line.signal: line.inside}))
        feed.wait(1)
        assert feed.hold(measured(line.target, {line.signal: line.beyond}), line.hold_s - 0.001) == []
        feed.wait(0.001)
        assert len(feed.see(measured(line.target, {line.signal: line.beyond}))) == 1


class TestDefaults:
    def test_have_no_bounds_but_those_of_the_table(self) -> None:
        bands = {Kind.GATEWAY: GATEWAY_BANDS, Kind.ENGINE: ENGINE_BANDS, Kind.TRAINER: TRAINER_BANDS}
        bounds = {
            (kind, band.signal.value, direction)
            for kind, those in bands.items()
            for band in those
            for direction in Direction
            if band.bound(direction) is not None
        }
        assert bounds == {(line.target.kind, line.signal, line.direction) for line in LINES}


class TestGoingDown:
    @pytest.mark.parametrize(
        ("target", "calm", "hold_s", "up"),
        [
            (GATEWAY, {"cpu": 0.1}, 10 * MINUTE, {"overhead_s": 2.1}),
            (GATEWAY, {"overhead_s": 0.1}, 15 * MINUTE, {"cpu": 0.8}),
            (MINI, {"queue": 0}, 15 * MINUTE, {"compute": 0.9}),
            (MINI, {"compute": 0.1}, 20 * MINUTE, {"queue": 60}),
        ],
    )
    def test_waits_while_any_signal_is_above_its_upper_bound_however_briefly(
        self, target: Target, calm: dict[str, float], hold_s: float, up: dict[str, float]
    ) -> None:
        feed = Feed()
        assert feed.hold(measured(target, calm), hold_s - 1) == []
        feed.wait(1)
        assert feed.hold(measured(target, calm | up), 30) == []
        assert feed.see(measured(target, calm))[0].direction is DOWN

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0, 30, 60]), st.sampled_from([30, 100, 895, 1195])
            ),
            min_size=1,
            max_size=8,
        )
    )
    def test_is_never_decided_with_a_signal_above(self, load: list[tuple[float, float, float]]) -> None:
        feed = Feed()
        for compute, queue, duration_s in load:
            decisions = feed.hold(sample(MINI, compute=compute, queue=queue), duration_s)
            assert not [one for one in decisions if one.direction is DOWN and (compute > 0.85 or queue > 50)]

    def test_a_signal_that_nobody_could_measure_holds_nothing(self) -> None:
        assert Feed().hold(sample(GATEWAY), 60 * MINUTE) == []
        assert Feed().hold(sample(GATEWAY, cpu=math.nan), 60 * MINUTE) == []


class TestHolds:
    def test_are_broken_by_a_gap_without_samples(self) -> None:
        feed = Feed()
        feed.hold(sample(MINI, queue=60), 100)
        feed.wait(MAX_GAP_S + 1)
        assert feed.see(sample(MINI, queue=60)) == []

    def test_start_anew_after_a_change(self) -> None:
        feed = Feed(policy=ScalingPolicy(replace(ROOM, cooldown_s=0.0)))
        feed.hold(sample(MINI, queue=60), 120)
        assert feed.hold(sample(MINI, 3, queue=60), 119) == []
        feed.wait(STEP_S)
        assert feed.see(sample(MINI, 3, queue=60))[0].to_replicas == 4

    def test_are_forgotten_with_a_target_that_is_gone(self) -> None:
        feed = Feed()
        feed.see(sample(MINI, queue=60))
        feed.wait(FORGET_S + 1)
        feed.see(sample(GATEWAY))
        assert [one.sample.target for one in feed.policy.standings(now_s=feed.now_s)] == [GATEWAY]


class TestCooldown:
    def test_lies_between_any_two_changes(self) -> None:
        feed = Feed(policy=ScalingPolicy(replace(ROOM, cooldown_s=600.0)))
        feed.hold(sample(MINI, queue=60), 120)
        waiting = feed.hold(sample(MINI, 3, queue=60), 599.999)
        assert {one.outcome for one in waiting} == {Outcome.COOLING_DOWN}
        assert "cooldown" in waiting[0].message
        feed.wait(0.001)
        assert [one.outcome for one in feed.see(sample(MINI, 3, queue=60))] == [None]

    def test_of_one_target_does_not_hold_another(self) -> None:
        feed = Feed()
        feed.hold(sample(MINI, queue=60), 120)
        assert [one.outcome for one in feed.hold(sample(GATEWAY, cpu=0.9), 180)] == [None]

    def test_alone_never_makes_scaling_late(self) -> None:
        assert ScalingSettings().cooldown_s < 300


class TestABlockedChange:
    def test_is_tried_again_after_a_rest_and_starts_no_cooldown(self) -> None:
        feed = Feed(outcome=Outcome.BLOCKED_BY_HEADROOM)
        feed.hold(sample(MINI, queue=60), 120)
        assert feed.hold(sample(MINI, queue=60), 59.999) == []
        feed.wait(0.001)
        assert [one.outcome for one in feed.see(sample(MINI, queue=60))] == [None]

    def test_is_not_asked_for_twice_while_it_is_carried_out(self) -> None:
        policy, feed = ScalingPolicy(ROOM), Feed()
        first = policy.saw([sample(MINI, queue=60)], now_s=0, at=feed.at)
        second = policy.saw([sample(MINI, queue=60)], now_s=50, at=feed.at)
        third = policy.saw([sample(MINI, queue=60)], now_s=100, at=feed.at)
        began = policy.saw([sample(MINI, queue=60)], now_s=120, at=feed.at)
        again = policy.saw([sample(MINI, queue=60)], now_s=170, at=feed.at)
        assert [len(one) for one in (first, second, third, began, again)] == [0, 0, 0, 1, 0]


class TestLimits:
    def test_a_count_without_limits_stays_as_configured(self) -> None:
        feed = Feed(policy=ScalingPolicy(ScalingSettings()))
        assert {one.outcome for one in feed.hold(sample(MINI, queue=99), 30 * MINUTE)} == {Outcome.AT_LIMIT}
        feed.wait(1)
        assert feed.hold(sample(MINI, queue=0), 30 * MINUTE) == []

    def test_the_most_is_said_where_more_would_help(self) -> None:
        decisions = Feed().hold(sample(MINI, 8, queue=99), 120)
        assert (decisions[0].outcome, decisions[0].message) == (Outcome.AT_LIMIT, "its limits are 1 to 8")

    def test_the_fewest_is_kept_in_silence(self) -> None:
        assert Feed().hold(sample(MINI, 1, queue=0), 60 * MINUTE) == []

    def test_too_few_come_up_at_once(self) -> None:
        (decision,) = Feed(policy=ScalingPolicy(limits(3, 5))).see(sample(MINI, 1))
        assert (decision.to_replicas, decision.reason) == (3, "below its minimum of 3")

    def test_too_many_go_one_by_one_but_not_under_load(self) -> None:
        feed = Feed(policy=ScalingPolicy(limits(1, 2)))
        assert [one.outcome for one in feed.hold(sample(MINI, 4, queue=60), 60)] == []
        (decision,) = feed.see(sample(MINI, 4, queue=20))
        assert (decision.to_replicas, decision.reason) == (3, "above its maximum of 2")

    def test_a_minimum_of_none_lets_a_model_sleep_and_signals_do_not_wake_it(self) -> None:
        feed = Feed(policy=ScalingPolicy(limits(0, 2)))
        assert feed.hold(sample(MINI, 1, queue=0), 15 * MINUTE)[0].to_replicas == 0
        assert feed.hold(sample(MINI, 0, queue=99), 60 * MINUTE) == []


class TestOptionalSignals:
    @pytest.mark.parametrize("signal", ["memory", "first_token_s"])
    def test_count_only_where_they_have_a_bound(self, signal: str) -> None:
        assert Feed().hold(measured(MINI, {signal: 99.0}), 60 * MINUTE) == []
        band = Band(signal=Signal(signal), up=0.9, up_hold_s=60)
        feed = Feed(policy=ScalingPolicy(replace(ROOM, bands={Kind.ENGINE: (band,)})))
        assert feed.hold(measured(MINI, {signal: 0.95}), 60)[0].direction is UP


class TestByHand:
    def test_is_bound_by_given_limits_and_by_nothing_else(self) -> None:
        feed = Feed()
        feed.hold(sample(MINI, queue=60), 120)
        asked = feed.policy.by_hand(MINI, 5, now_s=feed.now_s, at=feed.at)
        assert not isinstance(asked, str)
        assert (asked.to_replicas, asked.by_hand) == (5, True)
        feed.policy.settled(replace(asked, outcome=Outcome.APPLIED), now_s=feed.now_s)
        refusal = feed.policy.by_hand(MINI, 9, now_s=feed.now_s, at=feed.at)
        assert refusal == "'mini' cannot have 9: its limits are 1 to 8. Change them below `scaling` in cluster.yaml."

    def test_holds_until_the_configuration_says_something_new(self) -> None:
        feed = Feed(policy=ScalingPolicy(ScalingSettings()))
        feed.see(sample(MINI))
        asked = feed.policy.by_hand(MINI, 4, now_s=feed.now_s, at=feed.at)
        assert not isinstance(asked, str)
        feed.policy.settled(replace(asked, outcome=Outcome.APPLIED), now_s=feed.now_s)
        assert feed.hold(sample(MINI, 4), 60 * MINUTE) == []
        feed.see(sample(MINI, 4, configured=3))
        assert feed.moves() == [(4, 3)]

    def test_refuses_what_it_does_not_know_what_is_changing_and_what_is_so_already(self) -> None:
        feed = Feed()
        feed.see(sample(MINI), sample(GATEWAY))
        ask = feed.policy.by_hand
        assert "Known: gateway, mini." in str(ask(target_named("maxi"), 2, now_s=0, at=feed.at))
        assert ask(MINI, 2, now_s=0, at=feed.at) == "'mini' has 2 already."
        assert not isinstance(ask(MINI, 3, now_s=0, at=feed.at), str)
        assert "is changing" in str(ask(MINI, 4, now_s=0, at=feed.at))


class TestNames:
    @pytest.mark.parametrize(
        "target", [GATEWAY, TRAINERS, MINI, Target(kind=Kind.ENGINE, model="gateway")], ids=lambda one: one.name
    )
    def test_lead_back_to_their_target(self, target: Target) -> None:
        assert target_named(target.name) == target


def limits(least: int, most: int) -> ScalingSettings:
    return ScalingSettings(limits={"mini": Limits(min_replicas=least, max_replicas=most)})
