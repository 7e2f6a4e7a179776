"""Maintenance windows: when they are open, and whose cordons they lay and lift."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement import health
from placement.health_state import Cordon, FleetHealth, HealthPolicy
from serve_app.config.settings import WindowSettings
from serve_app.ops.maintenance import Lay, Lift, is_open, last_opening, strangers, turns

SUNDAY = WindowSettings(
    name="sunday",
    cron="0 2 * * SUN",
    duration_s=3600.0,
    timezone="UTC",
    devices=frozenset(),
    nodes=frozenset({"a"}),
    drains=False,
)
DEVICES = ("a/gpu-0", "a/gpu-1", "b/gpu-0")
FLEET = health.enroll(FleetHealth(), DEVICES, now_s=0.0)
OPENING = datetime(2026, 1, 4, 2, tzinfo=UTC)
EDGES_MS = [edge + by for edge in (0, 60_000, 3_600_000, 100_000_000) for by in (-1, 0, 1)]
INSIDE = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)
OUTSIDE = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)


def with_turns(fleet: FleetHealth, made: tuple[Lay | Lift, ...]) -> FleetHealth:
    for turn in made:
        if isinstance(turn, Lay):
            fleet = health.cordon(fleet, turn.device, turn.cordon, now_s=0.0, policy=HealthPolicy()).fleet
        else:
            fleet = health.uncordon(fleet, turn.device, turn.by, now_s=0.0, policy=HealthPolicy()).fleet
    return fleet


class TestAWindow:
    @pytest.mark.parametrize(
        ("at", "expected"),
        [
            (datetime(2026, 11, 22, 1, 59, 59, 999_999, tzinfo=UTC), False),
            (datetime(2026, 11, 22, 2, 0, tzinfo=UTC), True),
            (datetime(2026, 11, 22, 2, 0, 0, 1, tzinfo=UTC), True),
            (datetime(2026, 11, 22, 2, 59, 59, 999_999, tzinfo=UTC), True),
            (datetime(2026, 11, 22, 3, 0, tzinfo=UTC), False),
            (datetime(2026, 11, 23, 2, 30, tzinfo=UTC), False),
        ],
    )
    def test_is_open_from_its_opening_until_just_before_its_end(self, at: datetime, expected: bool) -> None:
        assert is_open(SUNDAY, at) is expected

    def test_opens_by_the_clock_of_its_own_time_zone(self) -> None:
        berlin = replace(SUNDAY, timezone="Europe/Berlin")
        assert last_opening(berlin, INSIDE) == datetime(2026, 11, 22, 1, 0, tzinfo=UTC)

    def test_lasts_as_long_over_a_change_of_the_clock(self) -> None:
        """On 25 October 2026 Berlin has the hour from two to three twice."""
        berlin = replace(SUNDAY, cron="30 1 * * *", timezone="Europe/Berlin", duration_s=7200.0)
        opened = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
        assert last_opening(berlin, opened + timedelta(minutes=100)) == opened
        assert is_open(berlin, opened + timedelta(seconds=7199))
        assert not is_open(berlin, opened + timedelta(seconds=7200))

    @given(
        st.builds(
            lambda week, millis: OPENING + timedelta(weeks=week, milliseconds=millis),
            st.integers(0, 50),
            st.one_of(st.sampled_from(EDGES_MS), st.integers(0, 7 * 86_400_000)),
        ),
        st.sampled_from([60.0, 3600.0, 100_000.0]),
    )
    def test_is_open_exactly_when_an_opening_is_recent_enough(self, at: datetime, duration_s: float) -> None:
        """Against every opening of the year. Shown to fail with `<=` at the end."""
        openings = [OPENING + timedelta(weeks=week) for week in range(-1, 53)]
        recent = any(timedelta(0) <= at - opening < timedelta(seconds=duration_s) for opening in openings)
        assert is_open(replace(SUNDAY, duration_s=duration_s), at) is recent


class TestTurns:
    def test_lay_cordons_on_every_device_of_its_nodes(self) -> None:
        held = Cordon(by="window:sunday")
        assert turns([SUNDAY], FLEET, INSIDE) == (
            Lay(device="a/gpu-0", cordon=held),
            Lay(device="a/gpu-1", cordon=held),
        )

    def test_are_none_when_all_is_as_it_should_be(self) -> None:
        fleet = with_turns(FLEET, turns([SUNDAY], FLEET, INSIDE))
        assert turns([SUNDAY], fleet, INSIDE) == ()

    @pytest.mark.parametrize("windows", [[SUNDAY], []])
    def test_lift_what_a_window_held_when_it_ends_or_is_gone(self, windows: list[WindowSettings]) -> None:
        fleet = with_turns(FLEET, turns([SUNDAY], FLEET, INSIDE))
        lifted = [Lift(device=device, by="window:sunday") for device in DEVICES[:2]]
        assert list(turns(windows, fleet, OUTSIDE)) == lifted

    def test_leave_a_persons_cordon_alone(self) -> None:
        fleet = with_turns(FLEET, (Lay(device="a/gpu-0", cordon=Cordon(by="anna")),))
        fleet = with_turns(fleet, turns([SUNDAY], fleet, INSIDE))
        fleet = with_turns(fleet, turns([SUNDAY], fleet, OUTSIDE))
        assert fleet.records["a/gpu-0"].standing.cordons == (Cordon(by="anna"),)

    def test_change_a_cordon_to_a_drain_when_the_settings_do(self) -> None:
        fleet = with_turns(FLEET, turns([SUNDAY], FLEET, INSIDE))
        (first, _) = turns([replace(SUNDAY, drains=True)], fleet, INSIDE)
        assert first == Lay(device="a/gpu-0", cordon=Cordon(by="window:sunday", drains=True))

    def test_names_that_no_device_has_are_told(self) -> None:
        window = replace(SUNDAY, devices=frozenset({"b/gpu-0", "b/gpu-7"}), nodes=frozenset({"a", "z"}))
        assert strangers([window], DEVICES) == ("b/gpu-7", "z")
