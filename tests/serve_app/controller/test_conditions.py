"""What is known of devices, and what the solver makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from placement.inventory import DeviceHealth, Inventory
from placement.plan import Placement, Plan
from placement.policy import Policy
from placement.solver import solve
from serve_app.controller.conditions import Conditions
from serve_app.fleet.names import INFERENCE, TRAINING
from tests.placement.builders import GIB, demand, fleet

TWO = fleet("n: 2x10GiB")
FIRST, SECOND = (device.id for device in TWO.devices)


def plan_of(conditions: Conditions, *, running: tuple[Placement, ...] = (), gib: int = 6, replicas: int = 1) -> Plan:
    dressed = conditions.dress(TWO, running, headroom=0.2)
    return solve(dressed, [demand("m", gib=gib, replicas=replicas)], Policy(), running=running)


def devices_of(plan: Plan) -> list[str]:
    return [device for placement in plan.placements for device in placement.devices]


def drained(device: str) -> Conditions:
    return Conditions(health={device: DeviceHealth.DRAINING})


def on(device: str) -> tuple[Placement, ...]:
    """`m` as it runs on this device."""
    other = SECOND if device == FIRST else FIRST
    return plan_of(drained(other)).placements


class TestCordon:
    def test_what_runs_there_stays(self) -> None:
        assert devices_of(plan_of(Conditions(cordoned=frozenset({SECOND})), running=on(SECOND))) == [SECOND]

    def test_nothing_new_is_placed_there(self) -> None:
        plan = plan_of(Conditions(cordoned=frozenset({SECOND})), running=on(SECOND), gib=1, replicas=3)
        assert devices_of(plan).count(SECOND) <= 1
        assert len(plan.placements) == 3


class TestDrain:
    def test_empties_the_device(self) -> None:
        assert devices_of(plan_of(drained(SECOND), running=on(SECOND))) == [FIRST]

    def test_goes_before_a_cordon(self) -> None:
        both = Conditions(health={SECOND: DeviceHealth.DRAINING}, cordoned=frozenset({SECOND}))
        assert devices_of(plan_of(both, running=on(SECOND))) == [FIRST]


class TestHealth:
    @pytest.mark.parametrize("health", [DeviceHealth.QUARANTINED, DeviceHealth.DRAINING, DeviceHealth.LOST])
    def test_an_unhealthy_device_is_emptied(self, health: DeviceHealth) -> None:
        assert devices_of(plan_of(Conditions(health={FIRST: health}), running=on(FIRST))) == [SECOND]

    def test_a_throttled_one_keeps_what_it_has(self) -> None:
        throttled = Conditions(health={FIRST: DeviceHealth.THROTTLED})
        assert devices_of(plan_of(throttled, running=on(FIRST))) == [FIRST]

    def test_what_its_reader_calls_lost_stays_lost(self) -> None:
        lost = Conditions(health={FIRST: DeviceHealth.LOST}).dress(TWO, (), headroom=0.2)
        again = Conditions(health={FIRST: DeviceHealth.HEALTHY}).dress(lost, (), headroom=0.2)
        assert again.devices[0].health is DeviceHealth.LOST

    def test_why_a_device_is_not_usable_is_said_in_a_word(self) -> None:
        conditions = Conditions(health={FIRST: DeviceHealth.QUARANTINED, SECOND: DeviceHealth.DEGRADED})
        assert [conditions.unusable(device) for device in TWO.devices] == ["quarantined", ""]
        assert not Conditions(cordoned=frozenset({FIRST})).unusable(TWO.devices[0])


class TestLeases:
    def test_leased_bytes_are_planned_around(self) -> None:
        assert devices_of(plan_of(Conditions(leased_bytes={FIRST: 4 * GIB}))) == [SECOND]

    def test_the_pool_of_now_takes_the_place_of_the_one_before(self) -> None:
        def leased(inventory: Inventory) -> int:
            return sum(holding.num_bytes for holding in inventory.devices[0].holdings)

        before = Conditions(leased_bytes={FIRST: 4 * GIB}).dress(TWO, (), headroom=0.2)
        assert leased(Conditions(leased_bytes={FIRST: GIB}).dress(before, (), headroom=0.2)) == GIB
        assert leased(Conditions().dress(before, (), headroom=0.2)) == 0


class TestUsable:
    def test_what_is_known_now_goes_before_an_older_inventory(self) -> None:
        was_lost = Conditions(health={FIRST: DeviceHealth.LOST}).dress(TWO, (), headroom=0.2)
        now = Conditions(health={FIRST: DeviceHealth.HEALTHY})
        assert not now.unusable(was_lost.devices[0])


class TestRoles:
    def test_no_model_is_placed_on_a_node_for_training(self) -> None:
        inventory = with_roles(training=True)
        dressed = Conditions().dress(inventory, (), headroom=0.2)
        plan = solve(dressed, [demand("m", gib=1)], Policy())
        assert [refusal.model for refusal in plan.refusals] == ["m"]

    def test_no_guest_is_placed_on_a_node_without_its_role(self) -> None:
        dressed = Conditions().dress_for_guests(with_roles(training=False), (), headroom=0.2, role=TRAINING)
        plan = solve(dressed, [demand("job", gib=1)], Policy())
        assert "n is for inference" in plan.refusals[0].message

    def test_a_node_is_for_both_when_nobody_says_otherwise(self) -> None:
        for dressed in (
            Conditions().dress(TWO, (), headroom=0.2),
            Conditions().dress_for_guests(TWO, (), headroom=0.2, role=TRAINING),
        ):
            assert not solve(dressed, [demand("m", gib=6)], Policy()).refusals


class TestGuests:
    GUESTS = Conditions(guests={FIRST: {"job:1": 6 * GIB}, SECOND: {"job:2": 6 * GIB}})

    def test_their_bytes_are_not_given_to_a_model(self) -> None:
        assert plan_of(self.GUESTS, gib=3).refusals

    def test_what_is_left_beside_them_is(self) -> None:
        assert not plan_of(self.GUESTS, gib=2).refusals

    def test_the_bytes_of_models_are_not_given_to_a_guest(self) -> None:
        running = on(FIRST) + plan_of(drained(FIRST)).placements
        dressed = Conditions().dress_for_guests(TWO, running, headroom=0.2, role=TRAINING)
        assert solve(dressed, [demand("job", gib=3)], Policy()).refusals
        assert not solve(dressed, [demand("job", gib=2)], Policy()).refusals

    def test_one_that_has_left_gives_its_bytes_back(self) -> None:
        full = self.GUESTS.dress(TWO, (), headroom=0.2)
        assert not solve(Conditions().dress(full, (), headroom=0.2), [demand("m", gib=8)], Policy()).refusals


def with_roles(*, training: bool) -> Inventory:
    roles = frozenset({TRAINING if training else INFERENCE})
    return replace(TWO, nodes=tuple(replace(node, roles=roles) for node in TWO.nodes))
