"""The stage machine by itself: no world, no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.rollout.record import Hold, Kind, Mode, Record, Stage, Way
from serve_app.rollout.stages import (
    BEFORE_TRAFFIC,
    Asked,
    Command,
    Done,
    Effect,
    Event,
    Failed,
    Looked,
    Move,
    RolloutPolicy,
    TimedOut,
    begin,
    decide,
    recover,
)
from serve_app.rollout.triggers import TRIGGERS, CheckFound, Passed, Trigger, TriggerKind
from tests.serve_app.rollout.fake_world import NEW, OLD

POLICY = RolloutPolicy(canary_s=60.0, observe_s=600.0)
HOT = Trigger(kind=TriggerKind.TEMPERATURE_HIGH, reason="Too hot.")


def record(stage: Stage = Stage.REQUESTED, *, kind: Kind = Kind.FORWARD, way: Way = Way.SIDE_BY_SIDE) -> Record:
    made = Record(
        id=1, model="mini", kind=kind, mode=Mode.AUTO, by="x", old=OLD, new=NEW, observe_s=600.0, asked_unix_s=0.0
    )
    return replace(made, stage=stage, learned=replace(made.learned, way=way))


def after(one: Record, event: Event, *, elapsed_s: float = 1.0) -> Move:
    return decide(one, event, elapsed_s=elapsed_s, unix_s=0.0, policy=POLICY)


def road(kind: Kind, way: Way) -> list[Stage]:
    """Stages passed when everything goes well, each look a minute apart."""
    move = begin(record(kind=kind, way=way), unix_s=0.0)
    passed = [move.record.stage]
    while not move.record.is_over:
        event = Done(learned=move.record.learned) if move.effect else Looked()
        move = after(move.record, event, elapsed_s=60.0)
        if move.record.stage is not passed[-1]:
            passed.append(move.record.stage)
    return passed


class TestTheRoad:
    def test_passes_a_canary_where_there_is_room(self) -> None:
        assert [stage.value for stage in road(Kind.FORWARD, Way.SIDE_BY_SIDE)] == [
            *("requested", "backed_up", "shipping", "preparing", "canary"),
            *("switching", "committed", "observing", "finished"),
        ]

    def test_passes_none_in_place(self) -> None:
        assert Stage.CANARY not in road(Kind.FORWARD, Way.IN_PLACE)

    @pytest.mark.parametrize("kind", [Kind.QUICK, Kind.RELOAD])
    def test_of_weights_on_the_node_copies_nothing(self, kind: Kind) -> None:
        assert road(kind, Way.IN_PLACE)[:2] == [Stage.PREPARING, Stage.SWITCHING]

    def test_of_a_full_rollback_begins_with_the_backup(self) -> None:
        assert begin(record(kind=Kind.FULL), unix_s=0.0).effect is Effect.RESTORE

    def test_leads_to_first_traffic_within_fifteen_minutes(self) -> None:
        before = (Effect.BACK_UP, Effect.CHOOSE, Effect.SHIP, Effect.PREPARE, Effect.STAND, Effect.SWITCH)
        assert sum(POLICY.limits_s[effect] for effect in before) <= 15 * 60


class TestAFailure:
    @pytest.mark.parametrize("stage", sorted(BEFORE_TRAFFIC))
    @pytest.mark.parametrize("event", [Failed(reason="No."), TimedOut(limit_s=1.0), Looked(triggers=(HOT,))])
    def test_before_anything_serves_is_a_refusal(self, stage: Stage, event: Event) -> None:
        move = after(record(stage), event)
        assert (move.record.stage, move.effect) == (Stage.REFUSED, None)
        assert move.record.reason

    @pytest.mark.parametrize("stage", [Stage.CANARY, Stage.SWITCHING, Stage.COMMITTED, Stage.OBSERVING])
    @pytest.mark.parametrize("event", [Failed(reason="No."), Looked(triggers=(HOT,))])
    def test_afterwards_is_a_return(self, stage: Stage, event: Event) -> None:
        move = after(record(stage), event)
        assert (move.record.stage, move.effect) == (Stage.RETURNING, Effect.RETURN)

    def test_of_a_return_is_tried_again_and_again_with_longer_waits(self) -> None:
        move = after(record(Stage.RETURNING), Failed(reason="No."))
        waits = []
        for _ in range(8):
            assert (move.record.stage, move.effect) == (Stage.RETURNING, Effect.RETURN)
            waits.append(move.after_s)
            move = after(move.record, Failed(reason="No."))
        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]

    @pytest.mark.parametrize("kind", list(TriggerKind))
    def test_says_until_when_the_old_weights_must_be_back(self, kind: TriggerKind) -> None:
        move = after(record(Stage.OBSERVING), Looked(triggers=(Trigger(kind=kind, reason="x"),)))
        limit_s = TRIGGERS[kind].within_s
        assert move.record.return_within_s == limit_s
        assert not replace(move.record, spent_s=limit_s).is_late
        assert replace(move.record, spent_s=limit_s + 1).is_late
        late = after(move.record, Done(learned=move.record.learned), elapsed_s=limit_s + 1)
        assert late.record.is_late


class TestTime:
    def test_of_a_canary_counts_from_when_it_stands(self) -> None:
        stands = after(record(Stage.CANARY), Done(learned=record().learned), elapsed_s=100.0)
        assert stands.record.stage is Stage.CANARY
        assert after(stands.record, Looked(), elapsed_s=59.0).record.stage is Stage.CANARY
        assert after(stands.record, Looked(), elapsed_s=60.0).record.stage is Stage.SWITCHING

    def test_in_which_nobody_could_look_proves_nothing(self) -> None:
        observed = after(record(Stage.OBSERVING), Looked(is_blind=True), elapsed_s=1e6)
        assert observed.record.stage is Stage.OBSERVING
        assert after(record(Stage.OBSERVING), Looked(), elapsed_s=600.0).record.stage is Stage.FINISHED


def found(passed: Passed) -> tuple[CheckFound, ...]:
    return (CheckFound(check="service.chat", passed=passed, reason="Status 500."),)


class TestTheChecksOfTheService:
    CHECKED = replace(POLICY, has_checks=True)

    def looked(self, one: Record, event: Looked, *, elapsed_s: float = 1.0) -> Move:
        return decide(one, event, elapsed_s=elapsed_s, unix_s=0.0, policy=self.CHECKED)

    def test_that_pass_are_on_record_and_change_nothing_else(self) -> None:
        move = self.looked(record(Stage.OBSERVING), Looked(checks=found(Passed.PASS)))
        assert (move.record.stage, move.record.learned.checks) == (Stage.OBSERVING, found(Passed.PASS))
        assert self.looked(move.record, Looked()).record.learned.checks == found(Passed.PASS)

    def test_that_are_skipped_bring_nothing_back(self) -> None:
        assert self.looked(record(Stage.OBSERVING), Looked(checks=found(Passed.SKIP))).effect is None

    def test_that_fail_bring_the_old_weights_back_with_their_sentence(self) -> None:
        move = self.looked(record(Stage.OBSERVING), Looked(checks=found(Passed.FAIL)))
        assert (move.record.stage, move.effect) == (Stage.RETURNING, Effect.RETURN)
        assert move.record.trigger is TriggerKind.CHECK_FAILED
        assert move.record.reason == "The check service.chat failed after the switch: Status 500."
        assert move.record.learned.checks == found(Passed.FAIL)

    def test_come_after_a_device_that_failed(self) -> None:
        move = self.looked(record(Stage.OBSERVING), Looked(triggers=(HOT,), checks=found(Passed.FAIL)))
        assert move.record.trigger is HOT.kind

    def test_must_be_known_before_a_rollout_is_finished(self) -> None:
        unchecked = self.looked(record(Stage.OBSERVING), Looked(), elapsed_s=600.0)
        assert unchecked.record.stage is Stage.OBSERVING
        assert self.looked(unchecked.record, Looked(checks=found(Passed.PASS))).record.stage is Stage.FINISHED

    def test_are_made_of_a_rollout_that_is_not_observed_otherwise(self) -> None:
        settled = replace(record(Stage.COMMITTED), observe_s=0.0)
        done = Done(learned=settled.learned)
        assert decide(settled, done, elapsed_s=1.0, unix_s=0.0, policy=self.CHECKED).record.stage is Stage.OBSERVING
        assert after(settled, done).record.stage is Stage.FINISHED

    def test_are_not_made_of_what_goes_back(self) -> None:
        back = replace(record(Stage.COMMITTED, kind=Kind.QUICK), observe_s=0.0)
        move = decide(back, Done(learned=back.learned), elapsed_s=1.0, unix_s=0.0, policy=self.CHECKED)
        assert move.record.stage is Stage.FINISHED


class TestAPerson:
    def test_may_take_back_what_is_observed(self) -> None:
        move = after(record(Stage.OBSERVING), Asked(command=Command.ROLLBACK, by="anna"))
        assert (move.record.stage, move.effect) == (Stage.RETURNING, Effect.RETURN)
        assert "anna" in move.record.reason

    def test_who_pauses_lets_the_present_stage_end_and_holds_the_next(self) -> None:
        paused = after(record(Stage.SHIPPING), Asked(command=Command.PAUSE, by="x"))
        assert (paused.record.hold, paused.effect) == (Hold.ASKED, None)
        held = after(paused.record, Done(learned=record().learned))
        assert (held.record.stage, held.record.hold, held.effect) == (Stage.PREPARING, Hold.HELD, None)
        resumed = after(held.record, Asked(command=Command.RESUME, by="x"))
        assert (resumed.record.hold, resumed.effect) == (Hold.FREE, Effect.PREPARE)

    def test_holds_what_is_held_whatever_is_said_to_be_done(self) -> None:
        held = replace(record(Stage.BACKED_UP), hold=Hold.HELD)
        assert after(held, Done(learned=held.learned)).record.stage is Stage.BACKED_UP

    def test_who_thinks_better_of_a_pause_begins_nothing_twice(self) -> None:
        paused = after(record(Stage.SHIPPING), Asked(command=Command.PAUSE, by="x"))
        assert after(paused.record, Asked(command=Command.RESUME, by="x")).effect is None

    def test_cannot_hold_what_is_committed_with_its_gates_unsettled(self) -> None:
        paused = replace(record(Stage.SWITCHING), hold=Hold.ASKED)
        assert after(paused, Done(learned=paused.learned)).effect is Effect.SETTLE

    def test_promotes_a_canary_that_stands_but_no_unproven_one(self) -> None:
        promote = Asked(command=Command.PROMOTE, by="x")
        assert after(record(Stage.CANARY), promote).record.stage is Stage.CANARY
        assert after(replace(record(Stage.CANARY), stood_s=0.0), promote).effect is Effect.SWITCH

    def test_cannot_stop_a_return(self) -> None:
        for command in Command:
            assert after(record(Stage.RETURNING), Asked(command=command, by="x")).record.stage is Stage.RETURNING


class TestRecovery:
    @pytest.mark.parametrize("stage", [*sorted(BEFORE_TRAFFIC), Stage.CANARY, Stage.COMMITTED, Stage.RETURNING])
    def test_does_again_what_was_under_way(self, stage: Stage) -> None:
        move = recover(record(stage), committed=OLD.version, unix_s=0.0)
        assert move.record.stage is stage
        assert move.effect is not None

    def test_of_a_switch_follows_the_commit(self) -> None:
        forward = recover(record(Stage.SWITCHING), committed=NEW.version, unix_s=0.0)
        back = recover(record(Stage.SWITCHING), committed=OLD.version, unix_s=0.0)
        assert (forward.record.stage, forward.effect) == (Stage.COMMITTED, Effect.SETTLE)
        assert (back.record.stage, back.effect) == (Stage.RETURNING, Effect.RETURN)

    def test_leaves_what_a_person_holds(self) -> None:
        held = replace(record(Stage.SWITCHING), hold=Hold.HELD)
        assert recover(held, committed=OLD.version, unix_s=0.0) == Move(record=held)

    def test_of_an_observation_forgets_no_time(self) -> None:
        seen = replace(record(Stage.OBSERVING), spent_s=500.0)
        assert recover(seen, committed=NEW.version, unix_s=0.0).record.spent_s == 500.0


EVENTS = st.sampled_from(
    (
        Done(learned=record().learned),
        Failed(reason="No."),
        TimedOut(limit_s=1.0),
        Looked(),
        Looked(is_blind=True),
        Looked(triggers=(HOT,)),
        *(Asked(command=command, by="x") for command in Command),
    )
)


class TestAnyStory:
    @given(events=st.lists(EVENTS, max_size=40), kind=st.sampled_from(list(Kind)), way=st.sampled_from(list(Way)))
    def test_never_leaves_an_end_and_never_finishes_after_turning_back(
        self, events: list[Event], kind: Kind, way: Way
    ) -> None:
        move = begin(record(kind=kind, way=way), unix_s=0.0)
        has_turned = False
        for event in events:
            before = move.record
            move = after(before, event)
            has_turned = has_turned or move.record.stage is Stage.RETURNING
            if before.is_over:
                assert (move.record.stage, move.effect) == (before.stage, None)
            assert not (has_turned and move.record.stage not in (Stage.RETURNING, Stage.RETURNED))
            assert move.record.hold is not Hold.HELD or move.effect is None
