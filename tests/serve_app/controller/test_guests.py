"""Jobs beside the plan: placed by the real solver, and placed again elsewhere when their device may not be used."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Coroutine
from pathlib import Path

import pytest

from placement.demand import Demand
from placement.inventory import DeviceHealth, Inventory
from placement.policy import Policy
from placement.solver import solve
from serve_app.api.wire import ModelAction, ModelAnswer
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.change_spans import Trigger
from serve_app.controller.claims import Slot
from serve_app.controller.conditions import USABLE, Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.guests import Guests
from serve_app.controller.job_desk import guest_of, send_back
from serve_app.controller.lifecycle import Lifecycle, LifecycleState
from serve_app.controller.planning import StoredPlan
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.jobs.book import JobBook
from serve_app.jobs.job import Job, JobReason, JobSpec, JobState, Placed
from serve_app.jobs.ledger import JobClock, JobLedger
from serve_app.jobs.ports import Blocked
from serve_app.jobs.service import JobService, JobView
from tests.placement.builders import demand, fleet
from tests.serve_app.controller.proposals import SETTINGS
from tests.serve_app.controller.test_ledger import ledger
from tests.serve_app.jobs.world import ScriptedHost, saved, script
from tests.serve_app.leases.serving import HandClock

TWO_NODES = fleet("a: 1x10GiB", "b: 1x10GiB")


class IdleApplier(Applier):
    def __init__(self) -> None:
        pass

    @property
    def occupied(self) -> bool:
        return False


class PaperGuests(Guests):
    """Guests of a fleet that stands on paper; `health` is changed by the test."""

    def __init__(self, directory: Path, inventory: Inventory, *models: Demand) -> None:
        self.health: dict[str, DeviceHealth] = {}
        self._paper = inventory
        lifecycle = Lifecycle(LifecycleState(), now_s=0.0)
        super().__init__(
            bringup=_bringup(Store(directory / "state.db"), lifecycle, inventory, models),
            ledger=ledger(),
            fleet=FleetLink(headroom=0.2),
            lifecycle=lifecycle,
            conditions=lambda: Conditions(health=self.health, guests=self.by_device),
            applier=IdleApplier(),
            act=_nobody_sleeps,
        )

    def _busy(self) -> bool:
        return False

    async def _inventory(self) -> Inventory:
        return self._paper

    @property
    def unusable(self) -> dict[str, str]:
        return {device: one.value for device, one in self.health.items() if one not in USABLE}


async def _nobody_sleeps(action: ModelAction, model: str, trigger: Trigger) -> ModelAnswer:
    raise AssertionError("no model is idle here")


def _bringup(store: Store, lifecycle: Lifecycle, inventory: Inventory, models: tuple[Demand, ...]) -> Bringup:
    async def retired(_: tuple[Slot, ...]) -> None: ...

    made = Bringup(
        SETTINGS,
        store,
        FleetLink(headroom=0.2),
        ControllerTelemetry(SETTINGS),
        lifecycle=lifecycle,
        conditions=lambda _: Conditions(),
        retired=retired,
    )
    plan = solve(inventory, models, Policy())
    made.state.stored = StoredPlan(key="k", inventory=inventory, demands=models, plan=plan, slots=())
    return made


class PaperPlacer:
    """`jobs.ports.Placer` by the guests, without Ray's shares."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests
        self._names: dict[int, str] = {}
        self._epochs = itertools.count(1)

    async def place(self, job: Job) -> Placed | Blocked:
        guest = guest_of(job)
        place = await self._guests.place(guest)
        if isinstance(place, str):
            return Blocked(message=place)
        epoch = next(self._epochs)
        self._names[epoch] = guest.name
        return Placed(node=place.node, devices=tuple(seat.device for seat in place.seats), epoch=epoch)

    async def free(self, placed: Placed) -> None:
        self._guests.leave(self._names.pop(placed.epoch))


class Scene:
    def __init__(self, directory: Path, inventory: Inventory = TWO_NODES, *models: Demand) -> None:
        jobs = JobLedger(sqlite3.connect(":memory:", isolation_level=None))
        self.guests = PaperGuests(directory, inventory, *models)
        self.host = ScriptedHost()
        book = JobBook(jobs, now=JobClock(HandClock(), jobs).now)
        self.service = JobService(book=book, placer=PaperPlacer(self.guests), host=self.host)

    async def begun(self, spec: JobSpec) -> Job:
        job = self.service.submit(spec)
        assert isinstance(job, Job)
        await self.round()
        return self.job(job.id)

    async def round(self) -> None:
        await self.service.round()
        await self.settled()

    async def settled(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    def job(self, job_id: str) -> Job:
        view = self.service.show(job_id)
        assert isinstance(view, JobView)
        return view.job

    async def falls(self, device: str, health: DeviceHealth) -> None:
        """The device may not be used any more, and the controller looks, twice."""
        self.guests.health[device] = health
        for _ in range(2):
            send_back(self.service, self.guests.unusable, ())
        await self.settled()


@pytest.mark.parametrize("health", [DeviceHealth.DRAINING, DeviceHealth.QUARANTINED])
class TestAJobOnADeviceThatMayNotBeUsed:
    def test_goes_on_elsewhere_from_its_checkpoint(self, health: DeviceHealth, tmp_path: Path) -> None:
        async def story() -> None:
            scene = Scene(tmp_path)
            job = await scene.begun(script(gib=6))
            assert job.placed is not None
            (ill,) = job.placed.devices
            scene.host.runs[0].say(saved(30))
            await scene.settled()
            await scene.falls(ill, health)
            back = scene.job(job.id)
            assert (back.state, back.reason, back.message) == (
                JobState.QUEUED,
                JobReason.PREEMPTED,
                f"{ill} is {health.value}.",
            )
            assert (scene.host.runs[0].stopped, back.num_failures) == (1, 0)
            await scene.round()
            again = scene.job(job.id)
            assert again.placed is not None
            assert (again.state, again.placed.node == job.placed.node) == (JobState.RUNNING, False)
            assert scene.host.runs[1].order.job.resume_from == "/models/mini/checkpoint-30"

        _run(story())

    def test_waits_where_no_other_has_room_and_never_returns_to_it(self, health: DeviceHealth, tmp_path: Path) -> None:
        async def story() -> None:
            scene = Scene(tmp_path, fleet("a: 1x10GiB"))
            job = await scene.begun(script(gib=6))
            await scene.falls("a/gpu-0", health)
            await scene.round()
            assert (scene.job(job.id).state, scene.job(job.id).reason) == (JobState.QUEUED, JobReason.NO_ROOM)
            assert scene.guests.by_device == {}
            scene.guests.health.clear()
            await scene.round()
            assert scene.job(job.id).state is JobState.RUNNING

        _run(story())

    def test_is_not_the_job_on_another(self, health: DeviceHealth, tmp_path: Path) -> None:
        async def story() -> None:
            scene = Scene(tmp_path)
            first, second = await scene.begun(script(gib=6)), await scene.begun(script(gib=6))
            assert first.placed is not None
            await scene.falls(first.placed.devices[0], health)
            assert scene.job(second.id).state is JobState.RUNNING

        _run(story())


class TestRoomBesideThePlan:
    def test_is_what_models_leave(self, tmp_path: Path) -> None:
        async def story() -> None:
            scene = Scene(tmp_path, fleet("a: 1x10GiB"), demand("m", gib=5))
            assert (await scene.begun(script(gib=4))).reason is JobReason.NO_ROOM
            assert (await scene.begun(script(gib=3))).state is JobState.RUNNING

        _run(story())


def _run(story: Coroutine[None, None, None]) -> None:
    asyncio.run(story)
