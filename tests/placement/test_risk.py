"""A device that may fail soon is used last, and only where nothing is lost by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from placement import goals
from placement.check import ViolationKind, verify
from placement.codec import inventory_from_json, inventory_to_json
from placement.errors import InvalidProblem
from placement.inventory import DeviceHealth, Inventory
from placement.policy import Goal, Policy
from placement.solver import solve
from tests.placement.builders import by_replica, demand, fleet, problems, where, with_device
from tests.placement.test_packing import Question

PLAIN = Policy(headroom=0.0)


def at_risk(inventory: Inventory, **permilles: int) -> Inventory:
    """`at_risk(fleet, gpu_0=300)`: devices of node n."""
    for name, permille in permilles.items():
        inventory = with_device(inventory, f"n/{name.replace('_', '-')}", risk_permille=permille)
    return inventory


class TestPlacing:
    two = fleet("n: 2x10GiB")

    @pytest.mark.parametrize("goal", list(Goal))
    def test_of_equal_devices_the_one_at_lower_risk_is_taken(self, goal: Goal) -> None:
        plan = solve(at_risk(self.two, gpu_0=300, gpu_1=200), [demand("m")], replace(PLAIN, goal=goal))
        assert where(plan) == {"m#0": "n/gpu-1"}

    def test_a_risk_is_worth_more_devices_in_use(self) -> None:
        plan = solve(at_risk(self.two, gpu_0=100), [demand("a", gib=2), demand("b", gib=2)], PLAIN)
        assert set(where(plan).values()) == {"n/gpu-1"}

    def test_nobody_is_refused_for_it(self) -> None:
        plan = solve(at_risk(self.two, gpu_0=1000), [demand("m", gib=6, replicas=2)], PLAIN)
        assert plan.refusals == ()
        assert by_replica(plan, "m#0").reason.endswith("at a risk of 1.00 that a device fails")

    def test_nobody_moves_for_it(self) -> None:
        before = solve(self.two, [demand("m")], PLAIN)
        again = solve(at_risk(self.two, gpu_0=900), [demand("m")], PLAIN, running=before.placements)
        assert where(again) == where(before)

    def test_siblings_stay_apart_for_all_that(self) -> None:
        plan = solve(at_risk(self.two, gpu_0=900), [demand("m", replicas=2)], PLAIN)
        assert sorted(where(plan).values()) == ["n/gpu-0", "n/gpu-1"]

    def test_a_device_that_ails_now_is_worse_than_one_that_may(self) -> None:
        ailing = with_device(at_risk(self.two, gpu_0=999), "n/gpu-1", health=DeviceHealth.DEGRADED)
        assert where(solve(ailing, [demand("m")], PLAIN)) == {"m#0": "n/gpu-0"}

    @pytest.mark.parametrize("goal", list(Goal))
    def test_large_fleets_heed_it_too(self, goal: Goal) -> None:
        inventory = at_risk(fleet("n: 40x80GiB"), gpu_3=200, gpu_17=800)
        demands = tuple(demand(f"m{i}", gib=5 + i * 7 % 25, replicas=4) for i in range(25))
        plan = solve(inventory, demands, replace(PLAIN, goal=goal))
        assert {"n/gpu-3", "n/gpu-17"}.isdisjoint(where(plan).values())
        assert verify(plan, inventory, demands, replace(PLAIN, goal=goal)) == ()

    def test_a_risk_that_all_have_is_no_gap(self) -> None:
        inventory = at_risk(fleet("n: 40x80GiB"), **{f"gpu_{number}": 300 for number in range(40)})
        demands = tuple(demand(f"m{i}", gib=8, replicas=4) for i in range(25))
        assert solve(inventory, demands, PLAIN).gap == 0.0

    @given(problems())
    @settings(max_examples=40)
    def test_a_risk_below_a_tenth_counts_as_none(self, question: Question) -> None:
        inventory, demands, policy = question
        nodes = [
            [
                replace(node, devices=tuple(replace(d, risk_permille=risk) for d in node.devices))
                for node in inventory.nodes
            ]
            for risk in (0, 99)
        ]
        plans = [solve(replace(inventory, nodes=tuple(of_fleet)), demands, policy) for of_fleet in nodes]
        assert plans[0] == plans[1]


class TestAround:
    def test_it_survives_json(self) -> None:
        inventory = at_risk(fleet("n: 2x10GiB"), gpu_0=300)
        assert inventory_from_json(inventory_to_json(inventory)) == inventory

    @pytest.mark.parametrize("permille", [-1, 1001])
    def test_more_than_certain_and_less_than_none_are_turned_away(self, permille: int) -> None:
        with pytest.raises(InvalidProblem, match="risk_permille"):
            solve(at_risk(fleet("n: 1x10GiB"), gpu_0=permille), [demand("m")], PLAIN)

    def test_the_verifier_counts_the_cost_itself(self) -> None:
        inventory = at_risk(fleet("n: 1x10GiB"), gpu_0=300)
        plan = solve(inventory, [demand("m")], PLAIN)
        lied = replace(
            plan, goals=tuple(replace(g, value=0, bound=0) if g.name == goals.SET_COST else g for g in plan.goals)
        )
        assert [wrong.kind for wrong in verify(lied, inventory, [demand("m")], PLAIN)] == [ViolationKind.WRONG_GOALS]
