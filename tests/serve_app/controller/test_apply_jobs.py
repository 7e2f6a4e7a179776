"""In which order a change is carried out for which jobs give way; without Ray, and without engines."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from placement.inventory import Inventory
from placement.policy import Policy
from placement.solver import solve
from placement.steps import steps
from serve_app.controller.apply import Applier, ApplyStatus
from serve_app.controller.bringup import Bringup
from serve_app.controller.claims import Slot
from serve_app.controller.conditions import Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.lifecycle import Lifecycle, LifecycleState
from serve_app.controller.planning import StoredPlan
from serve_app.controller.preemption_desk import PreemptionDesk
from serve_app.controller.proposal import Proposal
from serve_app.controller.proposing import Proposer
from serve_app.controller.retirement import Retirement
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.errors import HeadroomError
from tests.serve_app.controller.paper_fleet import PaperFleet
from tests.serve_app.controller.proposals import FLEET, SETTINGS
from tests.serve_app.controller.test_ledger import ledger

GIVING_WAY = {"job:1": "Made way."}


class Preemption(PreemptionDesk):
    """Writes down what happens, and which plan is stored then. `leaves`: whether jobs do."""

    def __init__(self, store: Store, *, leaves: bool) -> None:
        self.seen: list[tuple[str, tuple[str, ...], int]] = []
        self._store = store
        self._leaves = leaves

    def note(self, what: str, names: Collection[str] = ()) -> None:
        self.seen.append((what, tuple(names), self._store.next_plan_version() - 1))

    def tell(self, giving_way: Mapping[str, str]) -> None:
        self.note("told", giving_way)

    async def left(self, names: Collection[str]) -> None:
        self.note("waited for", names)
        if not self._leaves:
            raise HeadroomError("job:1 did not give back its shares.")


class NotedFleet(PaperFleet):
    def __init__(self, preemption: Preemption) -> None:
        super().__init__(FLEET)
        self._preemption = preemption

    async def prepare(self, inventory: Inventory) -> None:
        self._preemption.note("engines prepared")


class UndeployedApplier(Applier):
    async def _settle(self) -> None:
        """Ray Serve is asked for nothing."""


class Scene:
    def __init__(self, directory: Path, *, leaves: bool = True) -> None:
        store, lifecycle = Store(directory / "state.db"), Lifecycle(LifecycleState(), now_s=0.0)
        self.preemption = Preemption(store, leaves=leaves)
        fleet, held = NotedFleet(self.preemption), ledger()
        self.bringup = _bringup(store, lifecycle, fleet)
        self.bringup.save(self.stored)
        self.bringup.take_over(self.stored)
        self.applier = UndeployedApplier(
            proposer=_unasked(self.bringup, store, lifecycle, fleet),
            bringup=self.bringup,
            ledger=held,
            fleet=fleet,
            store=store,
            lifecycle=lifecycle,
            retirement=Retirement(ledger=held, store=store, publish=lambda: None, on_end=lambda *_: None),
            preemption=self.preemption,
            publish=lambda: None,
        )

    @property
    def stored(self) -> StoredPlan:
        return StoredPlan(key="k", inventory=FLEET, demands=(), plan=solve(FLEET, (), Policy()), slots=())

    async def carried_out(self, giving_way: Mapping[str, str]) -> bool:
        inventory = replace(FLEET, version=FLEET.version + 1)
        plan = solve(inventory, (), Policy())
        proposal = Proposal(
            settings=SETTINGS,
            weights={},
            inventory=inventory,
            demands=(),
            plan=plan,
            steps=steps(self.stored.plan, plan, inventory, ()),
            slots=(),
            giving_way=giving_way,
        )
        self.applier.begin(proposal)
        return await self.applier.carry_out(proposal)


def _bringup(store: Store, lifecycle: Lifecycle, fleet: FleetLink) -> Bringup:
    async def retired(_: tuple[Slot, ...]) -> None: ...

    return Bringup(
        SETTINGS,
        store,
        fleet,
        ControllerTelemetry(SETTINGS),
        lifecycle=lifecycle,
        conditions=lambda _: Conditions(),
        retired=retired,
    )


def _unasked(bringup: Bringup, store: Store, lifecycle: Lifecycle, fleet: FleetLink) -> Proposer:
    return Proposer(
        bringup=bringup,
        ledger=ledger(),
        fleet=fleet,
        store=store,
        lifecycle=lifecycle,
        conditions=Conditions,
        jobs=lambda: (),
    )


class TestAChangeForWhichJobsGiveWay:
    async def test_tells_them_then_takes_their_room_then_waits_and_only_then_touches_engines(
        self, tmp_path: Path
    ) -> None:
        scene = Scene(tmp_path)
        assert await scene.carried_out(GIVING_WAY)
        assert scene.preemption.seen == [
            ("told", ("job:1",), FLEET.version),
            ("waited for", ("job:1",), FLEET.version + 1),
            ("engines prepared", (), FLEET.version + 1),
        ]

    async def test_goes_back_when_one_does_not_leave(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path, leaves=False)
        assert not await scene.carried_out(GIVING_WAY)
        assert scene.applier.progress.status is ApplyStatus.FAILED
        assert "did not give back" in scene.applier.progress.message
        assert scene.bringup.plan.inventory_version == FLEET.version
        assert "engines prepared" not in [what for what, _, _ in scene.preemption.seen]

    async def test_waits_for_nobody_when_none_does(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path)
        assert await scene.carried_out({})
        assert "waited for" not in [what for what, _, _ in scene.preemption.seen]
