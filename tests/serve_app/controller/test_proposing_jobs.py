"""What a proposal says of jobs: who gives way, with which reason, and the room that is counted with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from placement.demand import Demand
from placement.inventory import DeviceKind
from placement.policy import Policy
from placement.solver import solve
from serve_app.config.settings import Settings
from serve_app.controller.bringup import Bringup
from serve_app.controller.bringup_state import Phase
from serve_app.controller.claims import Slot, Weights
from serve_app.controller.conditions import Conditions
from serve_app.controller.giving_way import RunningJob
from serve_app.controller.lifecycle import Lifecycle, LifecycleState
from serve_app.controller.planning import StoredPlan
from serve_app.controller.proposing import Proposer, Wish
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.errors import HeadroomError
from tests.placement.builders import GIB, demand, fleet
from tests.serve_app.controller.paper_fleet import PaperFleet
from tests.serve_app.controller.proposals import SETTINGS
from tests.serve_app.controller.test_ledger import ledger

ONE = fleet("head: 1x10GiB", version=7)
JOB = "job:1"
WAITS = (demand("mini", gib=5, priority=50),)


class UnreadProposer(Proposer):
    """Demands as they are, without a checkpoint."""

    def _demands(
        self, settings: Settings, weights: Mapping[str, Weights], kind: DeviceKind
    ) -> tuple[tuple[Demand, ...], dict[str, HeadroomError]]:
        return WAITS, {}


class Scene:
    """`mini` of priority 50 and 5 GiB waits, because a job of `priority` has 4 of the 8 GiB."""

    def __init__(self, directory: Path, *, priority: int, held_s: float = 1000.0) -> None:
        store, lifecycle = Store(directory / "state.db"), Lifecycle(LifecycleState(), now_s=0.0)
        self.jobs = [RunningJob(name=JOB, priority=priority, held_s=held_s)]
        conditions = Conditions(guests={"head/gpu-0": {JOB: 4 * GIB}})
        paper = PaperFleet(ONE)
        self.settings = replace(SETTINGS, models=(replace(SETTINGS.models[0], priority=50),))

        async def retired(_: tuple[Slot, ...]) -> None: ...

        bringup = Bringup(
            self.settings,
            store,
            paper,
            ControllerTelemetry(self.settings),
            lifecycle=lifecycle,
            conditions=lambda _: conditions,
            retired=retired,
        )
        dressed = conditions.dress(ONE, (), headroom=0.2)
        plan = solve(dressed, WAITS, Policy())
        assert plan.refusals
        bringup.state.phase = Phase.SERVING
        bringup.state.stored = StoredPlan(key="k", inventory=dressed, demands=WAITS, plan=plan, slots=())
        bringup.state.weights = {"mini": Weights(path=Path("/m"), version="v1", step=None)}
        self.proposer = UnreadProposer(
            bringup=bringup,
            ledger=ledger(),
            fleet=paper,
            store=store,
            lifecycle=lifecycle,
            conditions=lambda: conditions,
            jobs=lambda: self.jobs,
        )

    async def giving_way(self, wish: Wish) -> Mapping[str, str]:
        proposal = await self.proposer.propose(self.settings, wish)
        assert bool(proposal.plan.placements) == bool(proposal.giving_way), "placed without room, or room without need"
        held = {one.holder for device in proposal.inventory.devices for one in device.holdings}
        assert (JOB in held) != bool(proposal.giving_way), "the plan counts with the wrong room"
        return proposal.giving_way


@pytest.mark.parametrize("wish", [Wish(knows_weights=True), Wish(knows_weights=True, needed=frozenset({"mini"}))])
class TestAProposal:
    async def test_takes_a_job_of_lower_priority_and_says_for_whom(self, wish: Wish, tmp_path: Path) -> None:
        assert await Scene(tmp_path, priority=49).giving_way(wish) == {
            JOB: "Made way for model 'mini' of priority 50, which finds no room otherwise."
        }

    async def test_leaves_one_of_equal_priority(self, wish: Wish, tmp_path: Path) -> None:
        assert await Scene(tmp_path, priority=50).giving_way(wish) == {}

    async def test_leaves_one_that_has_not_had_its_time(self, wish: Wish, tmp_path: Path) -> None:
        assert await Scene(tmp_path, priority=49, held_s=59.0).giving_way(wish) == {}

    async def test_leaves_all_where_that_is_wished(self, wish: Wish, tmp_path: Path) -> None:
        assert await Scene(tmp_path, priority=49).giving_way(replace(wish, jobs_stay=True)) == {}
