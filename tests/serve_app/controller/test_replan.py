"""When the plan in force is made again by itself."""

from __future__ import annotations

from placement.demand import Demand
from placement.inventory import DeviceHealth, Inventory
from placement.policy import Policy
from placement.solver import solve
from serve_app.controller.conditions import Conditions
from serve_app.controller.planning import StoredPlan
from serve_app.controller.replan import reasons
from tests.placement.builders import demand, fleet

TWO_NODES = fleet("a: 1x10GiB", "b: 1x10GiB")
LIVE = ("a", "b")
FITS = (demand("m", gib=6), demand("n", gib=6))


def stored(*demands: Demand, inventory: Inventory = TWO_NODES, conditions: Conditions | None = None) -> StoredPlan:
    dressed = (conditions or Conditions()).dress(inventory, (), headroom=0.2)
    plan = solve(dressed, demands, Policy())
    return StoredPlan(key="k", inventory=dressed, demands=demands, plan=plan, slots=())


def sick(device: str) -> Conditions:
    return Conditions(health={device: DeviceHealth.QUARANTINED})


class TestReasons:
    def test_none_while_the_fleet_is_as_it_was(self) -> None:
        assert reasons(stored(*FITS), LIVE, Conditions()) == ()

    def test_a_node_that_is_gone(self) -> None:
        assert reasons(stored(*FITS), ("a",), Conditions()) == ("node b is gone",)

    def test_a_device_in_use_that_falls_ill(self) -> None:
        assert reasons(stored(*FITS), LIVE, sick("a/gpu-0")) == ("a/gpu-0 is quarantined",)

    def test_not_a_device_that_nobody_uses(self) -> None:
        (used,) = stored(FITS[0]).plan.placements[0].devices
        other = "a/gpu-0" if used == "b/gpu-0" else "b/gpu-0"
        assert reasons(stored(FITS[0]), LIVE, sick(other)) == ()

    def test_a_node_that_comes(self) -> None:
        assert reasons(stored(*FITS), (*LIVE, "c"), Conditions()) == ("node c has come",)

    def test_a_device_that_is_back_only_while_something_waits_for_room(self) -> None:
        was_sick = stored(*FITS, conditions=sick("a/gpu-0"))
        assert was_sick.plan.refusals
        assert reasons(was_sick, LIVE, Conditions()) == ("a/gpu-0 is back",)
        assert reasons(stored(FITS[0], conditions=sick("a/gpu-0")), LIVE, Conditions()) == ()

    def test_a_plan_made_for_the_new_state_is_no_reason_any_more(self) -> None:
        assert reasons(stored(*FITS, conditions=sick("a/gpu-0")), LIVE, sick("a/gpu-0")) == ()
