"""The controller as a Serve deployment: one replica, restartable, owner of the store and the ledger.

A thin shell. What is decided stands in `ledger` and in `placement`; what is done to Ray in `bringup` and `fleet`.
Everybody else only asks it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from placement.codec import to_json_value
from placement.inventory import Inventory
from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.api.wire import ApplyRequest, ModelAction, ModelAnswer
from serve_app.config.load import settings_from_args
from serve_app.config.settings import Settings
from serve_app.controller import views
from serve_app.controller.access_desk import AccessDesk
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.bringup_state import Phase
from serve_app.controller.cache_desk import CacheDesk
from serve_app.controller.change_spans import Trigger
from serve_app.controller.claims import Claim, Push, ReadyReport, SlotState, Told, Waiting
from serve_app.controller.conditions import Conditions
from serve_app.controller.control_pages import ControlPages
from serve_app.controller.device_readings import DeviceReadings
from serve_app.controller.engine_scaler import EngineScaler
from serve_app.controller.fleet_desk import FleetDesk
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.gateway_replicas import ServeGateways
from serve_app.controller.guests import Guests
from serve_app.controller.http_listener import serve_listener
from serve_app.controller.learning import Learning
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.lifecycle import Lifecycle
from serve_app.controller.live_settings import LiveSettings
from serve_app.controller.model_actions import ModelActions
from serve_app.controller.preemption_desk import PreemptionDesk
from serve_app.controller.proposing import Proposer
from serve_app.controller.publish import Publisher
from serve_app.controller.reaper import Reaper
from serve_app.controller.replan import Replanner
from serve_app.controller.retirement import Retirement
from serve_app.controller.scaled_counts import ScaledCounts
from serve_app.controller.scaling_desk import ScalingDesk
from serve_app.controller.scaling_sight import Seen
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.engines.fingerprint import Fingerprint
from serve_app.fleet.measurements import store_path
from serve_app.fleet.process_memory import ProcessKey
from serve_app.gateway.routing_table import Offer, Peer, RoutingTable
from serve_app.logs import logger
from serve_app.turns import kept
from tracing import names
from tracing.setup import configure

_SWEEP_S = 1.0
_TUNE_S = 60.0
_SILENT_S = 20.0
"""A replica that does not beat for so long is taken for dead: its share may be gone already."""
_UNHEARD_S = 8.0
"""The same for one that only the store knows: replicas that live find a new controller within a second or two."""
_EPOCHS = 1_000_000


class Controller:
    def __init__(self, args: Mapping[str, Any]) -> None:
        configure(names.CONTROLLER)
        base = settings_from_args(args)
        self._store = Store(store_path(base.storage.home))
        self._counts = ScaledCounts(self._store.connection)
        self._live = LiveSettings(args, self._store, counted=self._counts.on)
        settings = self._live.in_force(base)
        epoch = self._store.reserve_epochs(_EPOCHS)
        self._ledger = Ledger(next_epoch=epoch)
        self._fleet = FleetLink(headroom=settings.fleet.headroom)
        self._telemetry = ControllerTelemetry(settings)
        self._publisher = Publisher(secret=self._store.internal_secret(), first_version=epoch)
        self._access = AccessDesk(
            self._store.connection,
            settings=settings.access,
            has_ray_token=os.environ.get("RAY_AUTH_MODE") == "token",
            changed=self._publisher.show_access,
        )
        self._access.check_http(serve_listener())
        self._publisher.show_access(self._access.snapshot())
        self._tasks: set[asyncio.Task[None]] = set()
        self._reaper = Reaper(
            ledger=self._ledger, store=self._store, fleet=self._fleet, publish=self._publish, spawn=self._spawn
        )
        self._lifecycle = Lifecycle(self._store.lifecycle(), now_s=time.monotonic())
        self._retirement = Retirement(
            ledger=self._ledger, store=self._store, publish=self._publish, on_end=self._telemetry.unloaded
        )
        self._bringup = Bringup(
            settings,
            self._store,
            self._fleet,
            self._telemetry,
            lifecycle=self._lifecycle,
            conditions=self._conditions,
            retired=self._retirement.retired,
        )
        self._desk = FleetDesk(
            connection=self._store.connection,
            bringup=self._bringup,
            ledger=self._ledger,
            fleet=self._fleet,
            telemetry=self._telemetry,
            lifecycle=self._lifecycle,
            readings=lambda: self._readings.latest,
            guests=lambda: self._guests.by_device,
            act=self._act,
            health=self._lease_health,
            submit_job=self._submit_job,
            access=self._access,
            gateways=self._publisher.gateway_urls,
            on_change=self._publish,
            spawn=self._spawn,
        )
        self._readings = DeviceReadings(
            bringup=self._bringup,
            ledger=self._ledger,
            fleet=self._fleet,
            measured=self._desk.leases.measured,
            lost=self._reaper.lost,
        )
        self._preemption = PreemptionDesk(stays=lambda: self._guests.stays, jobs=lambda: self._learning.jobs.service)
        self._applier, self._actions, self._replanner = self._changers()
        self._guests = Guests(
            bringup=self._bringup,
            ledger=self._ledger,
            fleet=self._fleet,
            lifecycle=self._lifecycle,
            conditions=self._conditions,
            applier=self._applier,
            act=self._act,
        )
        self._learning = self._made_learning()
        self._scaling = self._made_scaling(settings)
        self._cache = CacheDesk(
            self._store.connection,
            modes=lambda: self._bringup.settings.modes,
            totals=self._telemetry.collected,
            changed=self._publish,
        )
        self._pages = ControlPages(
            bringup=self._bringup,
            desk=self._desk,
            learning=self._learning,
            others={
                "/admin/keys": self._keys_page,
                "/admin/cache/ttl": self._cache_page,
                "/admin/scaling": self._scaling.answer,
            },
            fleet=self.fleet,
        )
        for work in (self._bring_up(), self._sweep(), self._readings.run(), self._replanner.run(), self._tune_caches()):
            self._spawn(work)
        self._desk.start()
        self._spawn(self._learning.start())
        self._spawn(self._scale())

    def _made_learning(self) -> Learning:
        """From training to tokens, on the parts that are there."""
        return Learning(
            store=self._store,
            live=self._live,
            bringup=self._bringup,
            ledger=self._ledger,
            fleet=self._fleet,
            guests=self._guests,
            applier=self._applier,
            retirement=self._retirement,
            telemetry=self._telemetry,
            conditions=self._conditions,
            readings=lambda: self._readings.latest,
            temperature_c=self._desk.temperature_c,
            secret=self._publisher.secret,
            lost=self._reaper.lost,
            most_jobs=lambda: self._scaling.max_jobs,
            publish=self._publish,
            alerts=self._desk.model_alerts,
            gateways=lambda: [peer.url for peer in self._publisher.table().peers],
            spawn=self._spawn,
        )

    def _made_scaling(self, settings: Settings) -> ScalingDesk:
        """`settings` are those the controller starts with: limits come from there."""
        return ScalingDesk(
            settings=settings,
            seen=Seen(
                settings=lambda: self._bringup.settings,
                figures=self._telemetry.figures,
                polls=lambda: self._desk.monitor.polls,
                num_jobs_waiting=self._learning.jobs.service.num_waiting,
                ledger=self._ledger,
                lifecycle=self._lifecycle,
            ),
            counts=self._counts,
            engines=EngineScaler(
                applier=self._applier,
                bringup=self._bringup,
                lifecycle=self._lifecycle,
                counts=self._counts,
                spawn=self._spawn,
            ),
            gateways=ServeGateways(),
            recorder=self._telemetry.recorder,
            on_jobs=self._learning.jobs.service.woken,
        )

    def _changers(self) -> tuple[Applier, ModelActions, Replanner]:
        """Those who change what runs, each through the one applier."""
        bringup, ledger, fleet, store = self._bringup, self._ledger, self._fleet, self._store
        proposer = Proposer(
            bringup=bringup,
            ledger=ledger,
            fleet=fleet,
            store=store,
            lifecycle=self._lifecycle,
            conditions=self._conditions,
            jobs=self._preemption.running,
        )
        applier = Applier(
            proposer=proposer,
            bringup=bringup,
            ledger=ledger,
            fleet=fleet,
            store=store,
            lifecycle=self._lifecycle,
            retirement=self._retirement,
            preemption=self._preemption,
            publish=self._publish,
        )
        actions = ModelActions(
            applier=applier,
            bringup=bringup,
            ledger=ledger,
            lifecycle=self._lifecycle,
            store=store,
            publish=self._publish,
            spawn=self._spawn,
        )
        return applier, actions, self._made_replanner(applier)

    def _made_replanner(self, applier: Applier) -> Replanner:
        return Replanner(
            applier=applier,
            bringup=self._bringup,
            fleet=self._fleet,
            conditions=self._conditions,
            jobs=self._preemption.running,
        )

    # -- asked by engine replicas ------------------------------------------------------------------

    async def claim(self, deployment: str, replica: str, process: ProcessKey) -> Claim | Waiting:
        phase = self._bringup.state.phase
        if phase is not Phase.SERVING:
            return Waiting(f"the controller is {phase.value}")
        answer = self._ledger.claim(deployment=deployment, replica=replica, process=process, now_s=time.monotonic())
        if isinstance(answer, Waiting):
            return answer
        self._store.save_tenure(answer)
        slot = self._ledger.slots[answer.slot]
        expected = self._store.words.of(slot)
        return Claim(slot=slot, epoch=answer.epoch, internal_secret=self._publisher.secret, expected=expected)

    async def hold(self, slot: str, epoch: int, shares: list[Any]) -> None:
        """The replica's shares exist: from now on their death is the replica's."""
        self._reaper.watch(slot, epoch, shares)

    async def start(self, slot: str, epoch: int) -> bool | Waiting | None:
        """May this replica take device memory now? None: its claim is gone."""
        await self._bringup.restored.wait()
        answer = self._ledger.start(slot=slot, epoch=epoch)
        if isinstance(answer, Tenure):
            self._store.save_tenure(answer)
            return True
        return answer

    async def ready(self, slot: str, epoch: int, report: ReadyReport, said: Fingerprint) -> None:
        """`said` is what the engine says to the fixed prompts."""
        await self._bringup.restored.wait()
        tenure = self._ledger.ready(slot=slot, epoch=epoch, report=report)
        if tenure is None:
            return
        if not self._ledger.is_true(tenure):
            _log.warning("a replica came with weights that serve no more", slot=slot, weights=report.weights_version)
            self._reaper.lost(slot, epoch)
            return
        self._store.save_tenure(tenure)
        self._store.words.believe(self._ledger.slots[slot], said)
        self._bringup.state.problems.pop(self._ledger.slots[slot].model, None)
        self._lifecycle.used(self._ledger.slots[slot].model, now_s=time.monotonic())
        self._bringup.record(self._ledger.slots[slot], tenure, rest_bytes=report.measured_bytes)
        self._telemetry.loaded(tenure, self._ledger.slots[slot].model)
        self._publish()

    async def failed(self, slot: str, epoch: int, reason: str) -> None:
        """The replica could not come up; Serve tries again, and people see why."""
        if slot in self._ledger.tenures and self._ledger.tenures[slot].epoch == epoch:
            self._bringup.state.problems[self._ledger.slots[slot].model] = reason
            self._telemetry.load_failed(self._ledger.slots[slot].model)

    async def beat(self, slot: str, epoch: int, shares: list[Any]) -> Told:
        """`shares` is empty before the replica holds them."""
        if not self._bringup.restored.is_set():
            return Told.GO_ON  # a controller that has not read its own books yet fences nobody off
        tenure = self._ledger.seen(slot=slot, epoch=epoch, now_s=time.monotonic())
        if tenure is None:
            return Told.FENCED
        self._reaper.watch(slot, epoch, shares)
        return Told.RETIRE if tenure.state is SlotState.DRAINING else Told.GO_ON

    async def weights_in_force(self, slot: str, epoch: int) -> str | None:
        """The version that this replica should answer with; None: its claim is gone."""
        await self._bringup.known.wait()
        tenure = self._ledger.tenures.get(slot)
        return self._ledger.slots[slot].weights.version if tenure is not None and tenure.epoch == epoch else None

    # -- asked by gateways ---------------------------------------------------------------------------

    async def register_gateway(self, peer: Peer) -> None:
        self._publisher.add_peer(peer, now_s=time.monotonic())

    async def routing_table(self, known_version: int, timeout_s: float) -> RoutingTable | None:
        """The table once it is another than `known_version`; None when nothing changed in `timeout_s`."""
        try:
            await asyncio.wait_for(self._bringup.known.wait(), timeout=timeout_s)
        except TimeoutError:
            return None  # gateways keep the table of the controller before us
        return await self._publisher.newer(known_version, timeout_s=timeout_s)

    async def push(self, push: Push) -> None:
        self._telemetry.merge(push)
        self._lifecycle.saw(push.deltas, now_s=time.monotonic())
        self._desk.objectives.saw(push.deltas)
        self._learning.answers.saw(push.deltas, now_s=time.monotonic())

    async def health(self) -> dict[str, Any]:
        return views.health(self._bringup.state, self._ledger, self._lifecycle, self._bringup.settings)

    async def models_info(self) -> dict[str, Any]:
        return views.models_info(
            self._bringup.state,
            self._ledger,
            self._lifecycle,
            self._bringup.settings,
            self._readings.latest,
            now_s=time.monotonic(),
        )

    async def fleet(self) -> dict[str, Any]:
        """Devices with every share planned and measured, read now."""
        await self._readings.read()
        settings = self._bringup.settings
        return views.fleet(self._bringup.state, self._ledger, settings, self._readings.latest, self._desk.device_facts)

    async def metrics(self) -> bytes:
        self._telemetry.show(self._bringup.state, self._ledger, self._lifecycle, self._bringup.settings)
        self._learning.jobs.service.record()
        return self._telemetry.render()

    # -- apply ---------------------------------------------------------------------------------------

    async def apply(self, asked: ApplyRequest) -> dict[str, Any]:
        """What these arguments of cluster.yaml would change; does it too unless it is a dry run."""
        return await self._live.apply(asked, self._applier, spawn=self._spawn, expect=self._telemetry.expect)

    async def applying(self) -> dict[str, Any]:
        """How far the last apply is."""
        progress: dict[str, Any] = to_json_value(self._applier.progress)
        return progress

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        """Whatever stands at a route of `api.control_routes`."""
        return await self._pages.answer(asked)

    async def _keys_page(self, asked: ControlAsked) -> ControlAnswer:
        return self._access.answer(asked)

    async def _cache_page(self, asked: ControlAsked) -> ControlAnswer:
        return self._cache.answer(asked)

    async def _lease_health(self, _: dict[str, Any]) -> dict[str, Any]:
        told = await self.health()
        return {"status": "ok" if told["status"] == "ok" else "degraded", "reason": told["reason"] or told["status"]}

    async def _submit_job(self, fields: dict[str, Any]) -> dict[str, Any]:
        return await self._learning.jobs.calls.submit_rpc(fields)

    async def _act(self, action: ModelAction, model: str, trigger: Trigger) -> ModelAnswer:
        return await self._actions.act(action, model, trigger=trigger)

    async def act(self, action: ModelAction, model: str) -> dict[str, Any]:
        """Load, unload, sleep, wake, pin or unpin one model."""
        return (await self._actions.act(action, model)).model_dump(mode="json")

    # -- loops ---------------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        await self._bringup.run(self._ledger, on_known=self._publish)

    async def _scale(self) -> None:
        await self._bringup.known.wait()
        await self._scaling.run()

    async def _tune_caches(self) -> None:
        while True:
            await asyncio.sleep(_TUNE_S)
            self._cache.look()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await kept(self._sweep_once, what="sweeping silent replicas")

    async def _sweep_once(self) -> None:
        now_s = time.monotonic()
        for tenure in self._ledger.silent(now_s=now_s, limit_s=_SILENT_S, unheard_limit_s=_UNHEARD_S):
            _log.warning("replica fell silent", slot=tenure.slot, epoch=tenure.epoch)
            self._reaper.lost(tenure.slot, tenure.epoch)
        if self._publisher.drop_silent_peers(now_s=now_s):
            self._publish()

    def _conditions(self, inventory: Inventory | None = None) -> Conditions:
        return self._desk.conditions(inventory)

    def _publish(self) -> None:
        if not self._bringup.known.is_set():
            return
        settings = self._bringup.settings
        self._publisher.show(
            views.backends(self._ledger, self._desk.monitor.fractions, self._desk.unusable),
            views.refusals(self._bringup.state, self._ledger, self._lifecycle),
            Offer(models=settings.models, modes=self._cache.applied(settings.modes)),
            wakeable=views.wakeable(self._bringup.state, self._ledger, self._lifecycle),
            canaries=self._learning.canaries.all,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a controller task failed", error=repr(error))


_log = logger("headroom.controller")
