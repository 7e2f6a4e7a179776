"""Quarantine, lost devices, the storm brake, people and restarts: what a device's state may become, and by what."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement import health
from placement.codec import from_json_value, to_json_value
from placement.errors import InvalidProblem, UnknownDevice
from placement.health_events import Notify, Probe, Quarantine, Restore, StateChanged
from placement.health_rules import RuleName
from placement.health_state import Cordon, HealthPolicy, Standing, max_out_of_service
from placement.inventory import DeviceHealth
from placement.signals import Poll
from tests.placement.health_story import DEVICE, Story, names, seen, silent

QUARANTINED, PROBATION = DeviceHealth.QUARANTINED, DeviceHealth.PROBATION
HEALTHY, DEGRADED = DeviceHealth.HEALTHY, DeviceHealth.DEGRADED
POLICY = HealthPolicy()


def quarantined(policy: HealthPolicy = POLICY) -> Story:
    story = Story(policy=policy)
    story.poll(0.0, seen(ecc_uncorrected=1))
    assert story.state() is QUARANTINED
    return story


class TestQuarantine:
    def test_begins_with_the_poll_that_saw_the_error(self) -> None:
        story = quarantined()
        assert [act.device for act in story.did(Quarantine)] == [DEVICE]
        assert story.did(Notify)[0].alert.rule is RuleName.ECC_UNCORRECTABLE

    def test_is_probed_only_after_its_rest(self) -> None:
        story = quarantined()
        story.goes_on(595.0, seen(ecc_uncorrected=1), start_s=5.0)
        assert story.did(Probe) == []
        story.goes_on(600.0, seen(ecc_uncorrected=1), start_s=600.0)
        assert story.did(Probe) == [Probe(device=DEVICE, number=1, timeout_s=120.0)]
        assert story.state() is PROBATION

    def test_only_a_passed_probe_ends_it(self) -> None:
        story = quarantined()
        now_s = story.on_probation()
        story.answer(now_s + 5.0, has_passed=True)
        assert story.did(Restore) == [Restore(device=DEVICE)]
        assert story.state() is HEALTHY

    def test_a_failed_probe_doubles_the_rest(self) -> None:
        story = quarantined()
        rests = []
        now_s = 0.0
        for _ in range(3):
            ended_s = story.on_probation(now_s)
            rests.append(ended_s - now_s)
            story.answer(ended_s, has_passed=False)
            assert story.state() is QUARANTINED
            now_s = ended_s
        assert rests == [600.0, 1200.0, 2400.0]

    def test_a_rest_has_a_longest_length(self) -> None:
        story = quarantined(HealthPolicy(max_rest_s=1000.0))
        now_s = 0.0
        for _ in range(5):
            now_s = story.on_probation(now_s)
            story.answer(now_s, has_passed=False)
        assert story.on_probation(now_s) - now_s == 1000.0

    def test_a_probe_without_an_answer_has_failed(self) -> None:
        story = quarantined()
        now_s = story.on_probation()
        story.goes_on(now_s + 120.0, seen(), start_s=now_s + 5.0)
        assert story.state() is QUARANTINED
        assert story.standing().num_strikes == 2

    def test_a_late_answer_to_an_older_probe_changes_nothing(self) -> None:
        story = quarantined()
        now_s = story.on_probation()
        story.answer(now_s, has_passed=False)
        later_s = story.on_probation(now_s)
        assert story.answer(later_s, has_passed=True, number=1).changed == ()
        assert story.state() is PROBATION

    def test_an_error_on_probation_is_a_strike_and_the_probe_no_longer_counts(self) -> None:
        story = quarantined()
        now_s = story.on_probation()
        story.poll(now_s + 1.0, seen(xids=(48,)))
        assert story.state() is QUARANTINED
        assert story.answer(now_s + 2.0, has_passed=True).changed == ()

    def test_strikes_are_forgotten_after_long_enough_in_service(self) -> None:
        story = quarantined(HealthPolicy(forgive_s=1000.0))
        now_s = story.on_probation()
        story.answer(now_s, has_passed=True)
        story.poll(now_s + 999.0, seen(xids=(48,)))
        assert story.standing().num_strikes == 2
        now_s = story.on_probation(now_s + 999.0)
        story.answer(now_s, has_passed=True)
        story.poll(now_s + 1000.0, seen(xids=(48,)))
        assert story.standing().num_strikes == 1


class TestLost:
    def test_a_silent_device_is_lost_at_once(self) -> None:
        story = Story()
        outcome = story.poll(0.0, silent())
        assert story.state() is DeviceHealth.LOST
        assert outcome.events[-1] == StateChanged(device=DEVICE, before=HEALTHY, after=DeviceHealth.LOST)
        assert "no answer within 2 s" in story.did(Quarantine)[0].reason

    def test_it_rests_from_its_last_silence_and_comes_back_through_a_probe(self) -> None:
        story = Story()
        story.goes_on(100.0, silent())
        story.poll(105.0, seen())
        assert story.cleared == [RuleName.DEVICE_LOST]
        assert story.state() is QUARANTINED
        assert story.on_probation(105.0) == 160.0
        story.answer(160.0, has_passed=True)
        assert story.state() is HEALTHY

    def test_a_device_without_a_poll_for_too_long_is_lost_too(self) -> None:
        story = Story()
        story.poll(0.0, seen())
        story.tick(30.0)
        assert story.state() is HEALTHY
        story.tick(30.1)
        assert story.state() is DeviceHealth.LOST
        assert story.fired == [RuleName.WATCH_STALE]

    def test_when_the_watch_reports_again_the_device_is_what_it_is_seen_to_be(self) -> None:
        story = Story()
        story.tick(31.0)
        story.poll(32.0, seen())
        assert story.state() is HEALTHY

    def test_a_device_that_nobody_ever_polled_is_lost(self) -> None:
        story = Story()
        story.tick(31.0)
        assert story.state() is DeviceHealth.LOST

    def test_no_silent_device_is_on_probation(self) -> None:
        story = Story(policy=HealthPolicy(lost_rest_s=1.0))
        story.goes_on(60.0, silent())
        assert story.did(Probe) == []

    def test_a_dry_run_does_not_make_it_usable(self) -> None:
        story = Story(policy=HealthPolicy(dry_run=True))
        story.poll(0.0, silent())
        assert story.state() is DeviceHealth.LOST


class TestOtherHardware:
    """Under a known id, as when one device is gone and NVML counts anew."""

    def test_comes_in_only_through_a_probe(self) -> None:
        story = Story()
        story.poll(0.0, seen())
        story.poll(5.0, seen(uuid="GPU-other"))
        assert story.state() is DeviceHealth.LOST
        assert "was GPU-n/gpu-0 and is GPU-other now" in story.did(Quarantine)[0].reason
        story.poll(10.0, seen(uuid="GPU-other"))
        assert story.state() is QUARANTINED

    @pytest.mark.parametrize(("num_errors", "fires"), [(0, False), (5, True)])
    def test_answers_for_its_own_errors_and_not_for_those_before(self, num_errors: int, fires: bool) -> None:
        story = Story()
        story.poll(0.0, seen(ecc_uncorrected=5))
        story.poll(5.0, seen(uuid="GPU-other", ecc_uncorrected=num_errors))
        assert story.standing().has(RuleName.ECC_UNCORRECTABLE) is fires
        assert story.cleared == [RuleName.ECC_UNCORRECTABLE]


class TestStormBrake:
    @pytest.mark.parametrize(
        ("num_devices", "share", "most"),
        [(1, 0.1, 1), (2, 0.0, 1), (10, 0.1, 1), (19, 0.1, 1), (20, 0.1, 2), (100, 0.29, 29), (70, 0.1, 7)],
    )
    def test_allows_a_tenth_of_the_fleet_and_always_one(self, num_devices: int, share: float, most: int) -> None:
        assert max_out_of_service(num_devices, share) == most

    def test_thirty_per_cent_bad_devices_leave_all_but_one_in_service_and_raise_an_alert(self) -> None:
        fleet = names(10)
        story = Story(*fleet)
        story.poll(0.0, *(seen(device, ecc_uncorrected=int(index < 3)) for index, device in enumerate(fleet)))
        assert [story.state(device) for device in fleet[:3]] == [
            QUARANTINED,
            DeviceHealth.DEGRADED,
            DeviceHealth.DEGRADED,
        ]
        assert [alert.rule for alert in story.fleet.alerts] == [RuleName.QUARANTINED_SHARE_HIGH]
        assert len(story.did(Quarantine)) == 1

    def test_what_was_held_back_follows_when_one_is_back_and_then_the_alert_clears(self) -> None:
        fleet = names(2)
        story = Story(*fleet)
        story.poll(0.0, *(seen(device, ecc_uncorrected=1) for device in fleet))
        polls = [seen(device, ecc_uncorrected=1) for device in fleet]
        story.goes_on(600.0, *polls, start_s=5.0)
        assert RuleName.QUARANTINED_SHARE_HIGH not in story.cleared
        story.answer(601.0, has_passed=True)
        story.tick(602.0)
        assert [story.state(device) for device in fleet] == [HEALTHY, QUARANTINED]
        assert RuleName.QUARANTINED_SHARE_HIGH in story.cleared
        assert story.fleet.alerts == ()

    def test_holds_over_a_restart(self) -> None:
        fleet = names(2)
        story = Story(*fleet)
        story.poll(0.0, *(seen(device, ecc_uncorrected=1) for device in fleet))
        story.restart(0.0)
        story.tick(1.0)
        assert [alert.rule for alert in story.fleet.alerts] == [RuleName.QUARANTINED_SHARE_HIGH]
        assert story.state(fleet[1]) is DeviceHealth.DEGRADED

    def test_does_not_make_a_silent_device_usable(self) -> None:
        fleet = names(10)
        story = Story(*fleet)
        story.poll(0.0, *(silent(device) for device in fleet))
        assert {story.state(device) for device in fleet} == {DeviceHealth.LOST}


class TestCordon:
    def test_is_apart_from_health(self) -> None:
        story = Story()
        story.take(health.cordon(story.fleet, DEVICE, Cordon(by="anna"), now_s=0.0, policy=POLICY))
        assert story.standing().cordons == (Cordon(by="anna"),)
        assert story.state() is HEALTHY

    def test_one_that_drains_shows_in_the_state(self) -> None:
        story = Story()
        story.take(health.cordon(story.fleet, DEVICE, Cordon(by="anna", drains=True), now_s=0.0, policy=POLICY))
        assert story.state() is DeviceHealth.DRAINING

    def test_each_holder_lifts_only_its_own(self) -> None:
        story = Story()
        for holder in ("anna", "window nightly"):
            story.take(health.cordon(story.fleet, DEVICE, Cordon(by=holder), now_s=0.0, policy=POLICY))
        story.take(health.uncordon(story.fleet, DEVICE, "window nightly", now_s=0.0, policy=POLICY))
        assert story.standing().cordons == (Cordon(by="anna"),)

    def test_lifting_it_lifts_no_quarantine(self) -> None:
        story = quarantined()
        story.take(health.cordon(story.fleet, DEVICE, Cordon(by="anna"), now_s=0.0, policy=POLICY))
        story.take(health.uncordon(story.fleet, DEVICE, "anna", now_s=0.0, policy=POLICY))
        assert story.state() is QUARANTINED

    def test_an_unknown_device_is_an_error_that_names_the_known(self) -> None:
        story = Story()
        with pytest.raises(UnknownDevice, match=r"'n/gpu-9' is no device of this fleet. It has n/gpu-0."):
            health.cordon(story.fleet, "n/gpu-9", Cordon(by="anna"), now_s=0.0, policy=POLICY)

    def test_holders_are_bounded(self) -> None:
        story = Story()
        for number in range(health.MAX_CORDONS):
            story.take(health.cordon(story.fleet, DEVICE, Cordon(by=str(number)), now_s=0.0, policy=POLICY))
        with pytest.raises(InvalidProblem):
            health.cordon(story.fleet, DEVICE, Cordon(by="one more"), now_s=0.0, policy=POLICY)


class TestRestart:
    def test_a_standing_survives_as_json(self) -> None:
        story = quarantined()
        story.take(health.cordon(story.fleet, DEVICE, Cordon(by="anna"), now_s=0.0, policy=POLICY))
        standing = story.standing()
        assert from_json_value(Standing, to_json_value(standing)) == standing

    def test_a_rest_begins_anew_and_is_never_shorter(self) -> None:
        story = quarantined()
        story.goes_on(590.0, seen(ecc_uncorrected=1), start_s=5.0)
        story.restart(17.0)
        assert story.on_probation(17.0) >= 617.0

    def test_a_probation_is_a_rest_again(self) -> None:
        story = quarantined()
        story.on_probation()
        story.restart(5.0)
        assert story.state() is QUARANTINED
        assert story.answer(6.0, has_passed=True).changed == ()

    def test_what_must_be_stored_is_named(self) -> None:
        story = Story(*names(3))
        story.poll(0.0, *(seen(device) for device in names(3)))
        assert story.poll(0.0, seen(names(3)[1], ecc_uncorrected=1), seen(names(3)[0])).changed == (names(3)[1],)
        assert story.poll(5.0, seen(names(3)[0])).changed == ()

    def test_hardware_that_was_taken_out_is_forgotten(self) -> None:
        story = quarantined()
        assert health.forget(story.fleet, DEVICE).records == {}
        with pytest.raises(UnknownDevice):
            health.forget(story.fleet, "n/gpu-9")


@dataclass(frozen=True)
class Step:
    """Something that happens to one device of four."""

    index: int
    kind: str
    wait_s: float


KINDS = ["good", "ecc", "xid", "silent", "hot", "pass", "fail", "pass", "good", "restart", "none"]
STEPS = st.lists(
    st.builds(
        Step,
        index=st.integers(0, 3),
        kind=st.sampled_from(KINDS),
        wait_s=st.sampled_from([0.5, 5.0, 31.0, 700.0]),
    ),
    max_size=60,
)


class Play:
    """Four devices under any steps, with a second account of who must be out of service."""

    def __init__(self, policy: HealthPolicy = POLICY) -> None:
        self.fleet = names(4)
        self.story = Story(*self.fleet, policy=policy)
        self.now_s = 0.0
        self.errors = dict.fromkeys(self.fleet, 0)

    def step(self, step: Step) -> None:
        device = self.fleet[step.index]
        self.now_s += step.wait_s
        if step.kind == "restart":
            self.story.restart(self.now_s)
        elif step.kind in ("pass", "fail"):
            self.story.answer(self.now_s, has_passed=step.kind == "pass", device=device)
        elif step.kind != "none":
            self.story.poll(self.now_s, self.poll(device, step.kind))
        self.story.tick(self.now_s)

    def poll(self, device: str, kind: str) -> Poll:
        self.errors[device] += kind == "ecc"
        polls: dict[str, Poll] = {
            "good": seen(device, ecc_uncorrected=self.errors[device]),
            "ecc": seen(device, ecc_uncorrected=self.errors[device]),
            "xid": seen(device, ecc_uncorrected=self.errors[device], xids=(79,)),
            "hot": seen(device, ecc_uncorrected=self.errors[device], temperature_c=90.0),
            "silent": silent(device),
        }
        return polls[kind]

    def resting(self) -> set[str]:
        return {device for device in self.fleet if self.story.standing(device).quarantine is not None}


class TestAnyStory:
    @given(STEPS)
    def test_rules_never_quarantine_beyond_the_brake(self, steps: list[Step]) -> None:
        """Of four devices one; silent ones are facts and may be more. Shown to fail with `_has_room` always true."""
        play = Play()
        for step in steps:
            before = play.resting()
            play.step(step)
            entered = play.resting() - before
            by_rule = {device for device in entered if not play.story.standing(device).has(RuleName.DEVICE_LOST)}
            assert len(by_rule) <= 1
            assert not by_rule or len(play.resting()) == 1

    @given(STEPS)
    def test_a_device_in_quarantine_leaves_only_by_a_passed_probe(self, steps: list[Step]) -> None:
        """Shown to fail with `begin_probation` that restores, and with a restart that forgets quarantine."""
        play = Play()
        for step in steps:
            before, probing = play.resting(), play.story.state(play.fleet[step.index]) is PROBATION
            play.step(step)
            for device in before - play.resting():
                assert (device, step.kind, probing) == (play.fleet[step.index], "pass", True)
            assert not any(play.story.state(device) is HEALTHY for device in play.resting())

    @given(STEPS)
    def test_silence_is_never_good(self, steps: list[Step]) -> None:
        """A device whose last poll was silent, or that had none for 30 s, is lost. Shown to fail with a `silent` that
        only writes the time of the poll, and without `find_stale`."""
        play = Play()
        last: dict[str, tuple[float, str]] = dict.fromkeys(play.fleet, (0.0, "good"))
        for step in steps:
            device = play.fleet[step.index]
            if step.kind == "restart":
                last = {name: (play.now_s + step.wait_s, kind) for name, (_, kind) in last.items()}
            play.step(step)
            if step.kind in ("good", "ecc", "xid", "hot", "silent"):
                last[device] = (play.now_s, step.kind)
            for name, (when_s, kind) in last.items():
                if kind == "silent" or play.now_s - when_s > 30.0:
                    assert play.story.state(name) is DeviceHealth.LOST

    @given(STEPS)
    def test_a_dry_run_quarantines_by_no_rule(self, steps: list[Step]) -> None:
        """Shown to fail without the dry run's branch in `_quarantine_by_rule`."""
        play = Play(HealthPolicy(dry_run=True))
        for step in steps:
            play.step(step)
        assert all("cannot be read" in act.reason for act in play.story.did(Quarantine))
        assert RuleName.QUARANTINED_SHARE_HIGH not in play.story.fired
