"""A controller's scaling with the real policy and the real solver; engines start and end by being written down."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from placement.inventory import DeviceKind
from placement.plan import Plan
from placement.policy import Policy
from placement.signals import DeviceSignals, Poll
from placement.solver import solve
from placement.steps import steps
from serve_app.api.control_routes import ControlAsked
from serve_app.config.settings import Settings
from serve_app.controller.apply import Applier, Progress
from serve_app.controller.bringup import Bringup
from serve_app.controller.claims import Slot
from serve_app.controller.conditions import Conditions
from serve_app.controller.engine_scaler import EngineScaler
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.lifecycle import Lifecycle
from serve_app.controller.planning import StoredPlan
from serve_app.controller.proposal import Proposal
from serve_app.controller.proposing import AS_IT_IS, Wish
from serve_app.controller.scaled_counts import ScaledCounts
from serve_app.controller.scaling_desk import ScalingDesk
from serve_app.controller.scaling_sight import Seen
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.errors import ApplyBusy
from serve_app.gateway.standalone import standalone_settings
from serve_app.scaling.rules import Limits, ScalingSettings
from tests.placement.builders import demand, fleet
from tests.serve_app.controller.test_ledger import ledger, slot
from tracing import names
from tracing.metrics import HistogramTotals, Labels, Recorder

FLEET = fleet("head: 1x24GiB", version=7)
BASE_GIB = 4.0
LIMITS = {name: Limits(min_replicas=1, max_replicas=8) for name in ("mini", "base", "gateway", "trainers")}
STEP_S = 5.0


def file(*, limits: Mapping[str, Limits] | None = None) -> Settings:
    """As cluster.yaml says: one replica each; `mini` goes first where room is short."""
    made = standalone_settings(["mini", "base"])
    mini, base = made.models
    scaling = ScalingSettings(limits=LIMITS if limits is None else limits)
    return replace(made, models=(replace(mini, priority=90), base), scaling=scaling)


def planned(settings: Settings, resting: Mapping[str, object], running: Plan | None, *, mini_gib: float) -> StoredPlan:
    gib_of = {"mini": mini_gib, "base": BASE_GIB}
    demands = tuple(
        demand(model.id, gib=gib_of[model.id], replicas=model.num_replicas, priority=model.priority)
        for model in settings.models
        if model.id not in resting
    )
    plan = solve(FLEET, demands, Policy(), running=running.placements if running else ())
    return StoredPlan(key="", inventory=FLEET, demands=demands, plan=plan, slots=())


class PlanningApplier(Applier):
    """Plans with the real solver; carries out by writing down what runs. `works` False: an engine does not start."""

    def __init__(self, bringup: Bringup, lifecycle: Lifecycle, *, mini_gib: float) -> None:
        self._mini_gib = mini_gib
        self._bringup = bringup
        self._lifecycle = lifecycle
        self.progress = Progress()
        self.works = True
        self.is_busy = False
        self.num_begun = 0

    async def propose(self, settings: Settings, wish: Wish = AS_IT_IS) -> Proposal:
        if self.is_busy:
            raise ApplyBusy("Another change is under way.")
        stored = self._bringup.state.stored
        assert stored is not None
        resting = dict(wish.resting or {})
        new = planned(settings, resting, stored.plan, mini_gib=self._mini_gib)
        return Proposal(
            settings=settings,
            weights={},
            inventory=FLEET,
            demands=new.demands,
            plan=new.plan,
            steps=steps(stored.plan, new.plan, FLEET, new.demands, demands_before=stored.demands),
            slots=(),
            resting=resting,
        )

    def begin(self, proposal: Proposal) -> None:
        self.num_begun += 1

    async def carry_out(self, proposal: Proposal) -> bool:
        if not self.works:
            self.progress = Progress(message="mini#1 did not start.")
            return False
        self._lifecycle.rest(proposal.resting)
        self._bringup.settings = proposal.settings
        self._bringup.state.stored = StoredPlan(
            key="", inventory=FLEET, demands=proposal.demands, plan=proposal.plan, slots=()
        )
        return True


@dataclass(slots=True)
class FakeGateways:
    number: int = 1
    refusal: str | None = None

    async def count(self) -> int:
        return self.number

    async def scale(self, count: int) -> str | None:
        if self.refusal is None:
            self.number = count
        return self.refusal


@dataclass(slots=True)
class FakeFigures:
    gauge: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histogram: dict[str, dict[Labels, HistogramTotals]] = field(default_factory=dict)

    def gauges(self, metric: names.Gauge) -> Mapping[Labels, float]:
        return self.gauge.get(metric.name, {})

    def histograms(self, metric: names.Histogram) -> Mapping[Labels, HistogramTotals]:
        return self.histogram.get(metric.name, {})


class World:
    """One controller; another `World` over the same directory is the same one after a restart."""

    def __init__(
        self,
        directory: Path,
        *,
        says: Settings | None = None,
        gateways: FakeGateways | None = None,
        mini_gib: float = 5.0,
    ) -> None:
        self.store = Store(directory / "state.db")
        self.counts = ScaledCounts(self.store.connection)
        self.gateways = gateways or FakeGateways()
        self.figures = FakeFigures()
        self.polls: dict[str, Poll] = {}
        self.num_waiting = 0
        self.now_s = 1000.0
        self.at = datetime(2026, 3, 2, tzinfo=UTC)
        self.jobs_told = 0
        self.recorder = Recorder("test")
        self.lifecycle = Lifecycle(self.store.lifecycle(), now_s=0.0)
        self.bringup = _bringup(self.counts.on(says or file()), self.store, self.lifecycle, mini_gib=mini_gib)
        self.applier = PlanningApplier(self.bringup, self.lifecycle, mini_gib=mini_gib)
        self.tasks: set[asyncio.Task[None]] = set()
        self.desk = self._desk()

    def _desk(self) -> ScalingDesk:
        return ScalingDesk(
            settings=self.bringup.settings,
            seen=Seen(
                settings=lambda: self.bringup.settings,
                figures=lambda: self.figures,
                polls=lambda: self.polls,
                num_jobs_waiting=lambda: self.num_waiting,
                ledger=ledger(slot("mini#0", device="head/gpu-0")),
                lifecycle=self.lifecycle,
            ),
            counts=self.counts,
            engines=EngineScaler(
                applier=self.applier,
                bringup=self.bringup,
                lifecycle=self.lifecycle,
                counts=self.counts,
                spawn=self._spawn,
            ),
            gateways=self.gateways,
            recorder=self.recorder,
            on_jobs=self._on_jobs,
            now_s=lambda: self.now_s,
            at=lambda: self.at,
        )

    def queue(self, model: str, waiting: float) -> None:
        self.figures.gauge.setdefault(names.REQUESTS_QUEUED.name, {})[model,] = waiting

    async def turns(self, duration_s: float) -> None:
        """The loop, for so long, at both ends too; what it begins has ended before the next turn."""
        for turn in range(int(duration_s / STEP_S) + 1):
            if turn:
                self.wait(STEP_S)
            await self.desk.service.turn()
            await self.desk.service.aclose()

    def wait(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.at += timedelta(seconds=duration_s)

    async def ask(self, target: str, count: int) -> tuple[int, dict[str, Any]]:
        body = orjson.dumps({"target": target, "count": count})
        answer = await self.desk.answer(ControlAsked(method="POST", path="/admin/scaling", body=body))
        return answer.status, orjson.loads(answer.body)

    async def page(self) -> dict[str, Any]:
        answer = await self.desk.answer(ControlAsked(method="GET", path="/admin/scaling"))
        page: dict[str, Any] = orjson.loads(answer.body)
        return page

    def count(self, model: str = "mini") -> int:
        """Replicas the plan in force has."""
        stored = self.bringup.state.stored
        assert stored is not None
        return sum(one.model == model for one in stored.plan.placements)

    def moves(self, target: str) -> list[tuple[int, int, str]]:
        """Oldest first, those that were blocked or failed too."""
        decisions = [record.decision for record in reversed(self.desk.service.history())]
        return [
            (one.from_replicas, one.to_replicas, str(one.outcome)) for one in decisions if one.target.name == target
        ]

    def _on_jobs(self) -> None:
        self.jobs_told += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def busy_host(used_gib: int) -> DeviceSignals:
    return signals("head/host", kind=DeviceKind.HOST, used_gib=used_gib)


def signals(
    device: str, *, kind: DeviceKind = DeviceKind.CUDA, used_gib: int = 0, utilization: float | None = None
) -> DeviceSignals:
    gib = 2**30
    return DeviceSignals(
        device=device,
        uuid="",
        kind=kind,
        product="test",
        total_bytes=24 * gib,
        used_bytes=used_gib * gib,
        utilization=utilization,
    )


def _bringup(settings: Settings, store: Store, lifecycle: Lifecycle, *, mini_gib: float) -> Bringup:
    async def retired(_: tuple[Slot, ...]) -> None: ...

    made = Bringup(
        settings,
        store,
        FleetLink(headroom=0.2),
        ControllerTelemetry(settings),
        lifecycle=lifecycle,
        conditions=lambda _: Conditions(),
        retired=retired,
    )
    made.state.stored = planned(settings, lifecycle.resting, None, mini_gib=mini_gib)
    return made
