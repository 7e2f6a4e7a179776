"""When the plan in force is made again by itself."""

from __future__ import annotations

from pathlib import Path

from placement.demand import Demand
from placement.inventory import DeviceHealth, Inventory
from placement.policy import Policy
from placement.solver import solve
from serve_app.config.settings import Settings
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.bringup_state import Phase
from serve_app.controller.claims import Slot
from serve_app.controller.conditions import Conditions
from serve_app.controller.giving_way import RunningJob
from serve_app.controller.lifecycle import Lifecycle, LifecycleState
from serve_app.controller.planning import StoredPlan
from serve_app.controller.proposal import Proposal
from serve_app.controller.proposing import AS_IT_IS, Wish
from serve_app.controller.replan import Replanner, reasons
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from tests.placement.builders import demand, fleet
from tests.serve_app.controller.paper_fleet import PaperFleet
from tests.serve_app.controller.proposals import SETTINGS, proposal

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

    def test_a_job_that_may_give_way_now(self) -> None:
        assert reasons(stored(*FITS), LIVE, Conditions(), may_give_way={"job:1"}) == ("job:1 may give way",)

    def test_a_node_that_comes(self) -> None:
        assert reasons(stored(*FITS), (*LIVE, "c"), Conditions()) == ("node c has come",)

    def test_a_device_that_is_back_only_while_something_waits_for_room(self) -> None:
        was_sick = stored(*FITS, conditions=sick("a/gpu-0"))
        assert was_sick.plan.refusals
        assert reasons(was_sick, LIVE, Conditions()) == ("a/gpu-0 is back",)
        assert reasons(stored(FITS[0], conditions=sick("a/gpu-0")), LIVE, Conditions()) == ()

    def test_a_plan_made_for_the_new_state_is_no_reason_any_more(self) -> None:
        assert reasons(stored(*FITS, conditions=sick("a/gpu-0")), LIVE, sick("a/gpu-0")) == ()


class CountingApplier(Applier):
    """Refuses every plan but counts them: what waits goes on waiting."""

    def __init__(self) -> None:
        self.num_proposed = 0

    @property
    def busy(self) -> bool:
        return False

    async def mended(self, live: object) -> bool:
        return False

    async def propose(self, settings: Settings, wish: Wish = AS_IT_IS) -> Proposal:
        self.num_proposed += 1
        return proposal()

    def begin(self, proposal: Proposal) -> None:
        pass

    async def carry_out(self, proposal: Proposal) -> bool:
        return True


class TestAModelThatWaits:
    async def test_is_planned_again_once_for_each_job_that_has_had_its_time(self, tmp_path: Path) -> None:
        wanted = (demand("m", gib=6, priority=50), demand("n", gib=6, priority=50))
        waits = stored(*wanted, conditions=sick("a/gpu-0"))
        assert waits.plan.refusals
        applier, jobs = CountingApplier(), list[RunningJob]()
        replanner = Replanner(
            applier=applier,
            bringup=serving(tmp_path, waits),
            fleet=PaperFleet(TWO_NODES),
            conditions=lambda: sick("a/gpu-0"),
            jobs=lambda: jobs,
        )

        async def proposed_after(*now: RunningJob) -> int:
            jobs[:] = now
            for _ in range(4):
                await replanner._look()
            return applier.num_proposed

        low, lower = (
            RunningJob(name="job:1", priority=1, held_s=60.0),
            RunningJob(name="job:2", priority=0, held_s=60.0),
        )
        assert await proposed_after() == 0
        assert await proposed_after(RunningJob(name="job:1", priority=1, held_s=59.0)) == 0
        assert await proposed_after(RunningJob(name="job:3", priority=1000, held_s=60.0)) == 0
        assert await proposed_after(low) == 1
        assert await proposed_after(low, lower) == 2


def serving(directory: Path, stored: StoredPlan) -> Bringup:
    async def retired(_: tuple[Slot, ...]) -> None: ...

    lifecycle = Lifecycle(LifecycleState(), now_s=0.0)
    made = Bringup(
        SETTINGS,
        Store(directory / "state.db"),
        PaperFleet(TWO_NODES),
        ControllerTelemetry(SETTINGS),
        lifecycle=lifecycle,
        conditions=lambda _: Conditions(),
        retired=retired,
    )
    made.state.phase, made.state.stored = Phase.SERVING, stored
    return made
