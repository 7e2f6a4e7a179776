"""From training to tokens in the controller: jobs, comparison, goals and rollouts, put together.

Owns none of their state; each is its own desk, and all that changes what runs goes through the one applier.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from serve_app.api.control_routes import ControlAnswer, ControlAsked, json_answer
from serve_app.api.wire import ApplyOutcome, ApplyRequest
from serve_app.compare.board import boards_json
from serve_app.compare.live_api import LiveApi
from serve_app.controller.aftercare import Aftercare
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.checkpoint_shelf import CheckpointShelf
from serve_app.controller.commit import Commit
from serve_app.controller.comparison_desk import ComparisonDesk
from serve_app.controller.conditions import USABLE, Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.guests import Guests
from serve_app.controller.job_desk import JobDesk
from serve_app.controller.ledger import Ledger
from serve_app.controller.lessons import Lessons
from serve_app.controller.live_settings import LiveSettings
from serve_app.controller.model_alerts import ModelAlerts
from serve_app.controller.retirement import Retirement
from serve_app.controller.rollout_backup import LiveBackup
from serve_app.controller.rollout_checks import LiveChecks, asks_with
from serve_app.controller.rollout_desk import RolloutDesk, SystemClock
from serve_app.controller.rollout_publish import Canaries, LivePublish
from serve_app.controller.rollout_replicas import LiveReplicas
from serve_app.controller.rollout_sight import AnswersSeen, LiveJudge, LiveWatch
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.controller.turns import Spawn
from serve_app.errors import HeadroomError
from serve_app.fleet.actors import DeviceReading
from serve_app.goals.rest import PATH as GOALS
from serve_app.jobs.rest import PATH as JOBS
from serve_app.rollout.rest import PATH as ROLLOUTS
from serve_app.rollout.rest import RELOAD_PATH
from serve_app.rollout.world import World
from serve_app.training.sources import models_folder
from serve_app.turns import kept

COMPARISONS: Final = "/v1/comparisons"
_LOOK_S: Final = 1.0
Page = Callable[[ControlAsked], Awaitable[ControlAnswer]]


class Learning:
    """`lost` ends a replica, `publish` tells gateways, `readings` are what wardens measured last.

    `gateways` are the addresses of gateways now.
    """

    def __init__(
        self,
        *,
        store: Store,
        live: LiveSettings,
        bringup: Bringup,
        ledger: Ledger,
        fleet: FleetLink,
        guests: Guests,
        applier: Applier,
        retirement: Retirement,
        telemetry: ControllerTelemetry,
        conditions: Callable[[], Conditions],
        readings: Callable[[], Mapping[str, DeviceReading]],
        temperature_c: Callable[[str], float | None],
        secret: str,
        lost: Callable[[str, int], None],
        most_jobs: Callable[[], int],
        publish: Callable[[], None],
        alerts: ModelAlerts,
        gateways: Callable[[], Sequence[str]],
        spawn: Spawn,
    ) -> None:
        self._bringup = bringup
        self._conditions = conditions
        self._fleet = fleet
        self._live = live
        self._applier = applier
        self._telemetry = telemetry
        self._spawn = spawn
        self._store = store
        self._nodes: frozenset[str] = frozenset()
        storage = bringup.settings.storage
        self.answers = AnswersSeen()
        self.canaries = Canaries(publish)
        lessons = Lessons(storage.home, test_every_s=lambda: bringup.settings.training.test_every_s, clock=time.time)
        self.comparisons = ComparisonDesk(store=store, bringup=bringup, jobs=lambda: self.jobs, lessons=lessons)
        self.jobs = JobDesk(
            store=store,
            home=storage.home,
            roots=(models_folder(storage.home), *storage.model_roots),
            guests=guests,
            fleet=fleet,
            metrics=telemetry.jobs,
            observers=(self.comparisons,),
            most=most_jobs,
            curriculum=lessons.setting,
        )
        commit = Commit(bringup=bringup, ledger=ledger, store=store, publish=publish)
        shelf = CheckpointShelf(bringup=bringup, commit=commit, fleet=fleet, scores=self.comparisons.scores)
        replicas = LiveReplicas(
            ledger=ledger,
            bringup=bringup,
            guests=guests,
            applier=applier,
            fleet=fleet,
            store=store,
            retirement=retirement,
            secret=secret,
            local_path=shelf.local_path,
            lost=lost,
            publish=publish,
        )
        world = World(
            ship=shelf,
            replicas=replicas,
            publish=LivePublish(canaries=self.canaries, commit=commit, applier=applier, lost=lost),
            judge=LiveJudge(self.answers, secret=secret),
            watch=LiveWatch(
                bringup=bringup,
                ledger=ledger,
                conditions=conditions,
                readings=readings,
                temperature_c=temperature_c,
                live=lambda: self._nodes,
            ),
            checks=LiveChecks(gateways=gateways, settings=lambda: bringup.settings.rollouts, ask=asks_with(secret)),
            backup=LiveBackup(bringup=bringup, arguments=live.arguments, apply=self._applied),
            clock=SystemClock(),
        )
        self.rollouts = RolloutDesk(
            store=store,
            world=world,
            shelf=shelf,
            comparisons=self.comparisons,
            settings=lambda: bringup.settings.rollouts,
            models=self._models,
            in_force=lambda: {model: weights.version for model, weights in bringup.state.weights.items()},
            metrics=telemetry.rollouts,
            spawn=spawn,
        )
        self.aftercare = Aftercare(
            store=store,
            bringup=bringup,
            ledger=ledger,
            telemetry=telemetry,
            alerts=alerts,
            live=LiveApi(address=lambda: next(iter(gateways()), None), secret=secret),
            lessons=lessons,
            scores=self.comparisons.scores,
            jobs=self.jobs,
            rollouts=self.rollouts,
        )

    async def start(self) -> None:
        """Once it is known who serves: first what was under way, then what is new."""
        await self._bringup.known.wait()
        self._store.served.show_links()
        await self.jobs.service.start()
        await self.rollouts.start()
        if self._bringup.settings.training.compare:
            self._spawn(self.comparisons.service.run())
        self._spawn(self.comparisons.goals.run())
        self.aftercare.start(self._spawn)
        self._spawn(self._watch())

    def page_of(self, path: str) -> Page | None:
        if path.startswith(JOBS):
            return self.jobs.calls.answer
        if path.startswith(GOALS):
            return self.comparisons.goal_pages.answer
        if path.startswith(ROLLOUTS) or path == RELOAD_PATH:
            return self.rollouts.answer
        return self._comparisons_page if path == COMPARISONS else None

    async def _comparisons_page(self, asked: ControlAsked) -> ControlAnswer:
        boards = boards_json(self.comparisons.service.boards(), at_s=time.time())
        return json_answer({**boards, "live": self.aftercare.live_tests.page()})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await kept(self._look, what="looking after jobs")

    async def _look(self) -> None:
        """Jobs leave devices that are ill, and nobody waits for programs of a node that is gone."""
        live = await self._fleet.node_names()
        gone, self._nodes = self._nodes - live, live
        health = self._conditions().health
        self.jobs.unusable({device: one.value for device, one in health.items() if one not in USABLE}, gone)

    def _models(self) -> dict[str, str]:
        return {weights.path.parent.name: model for model, weights in self._bringup.state.weights.items()}

    async def _applied(self, wanted: Mapping[str, Any]) -> None:
        """Other arguments in force; waits until they are carried out."""
        asked = ApplyRequest(args=dict(wanted["args"]), config_dir=str(wanted["config_dir"]))
        done = asyncio.Event()

        def spawn(work: Any) -> None:
            async def carried_out() -> None:
                try:
                    await work
                finally:
                    done.set()

            self._spawn(carried_out())

        told = await self._live.apply(asked, self._applier, spawn=spawn, expect=self._telemetry.expect)
        if told["outcome"] != ApplyOutcome.ACCEPTED.value:
            raise HeadroomError(f"The configuration of the backup cannot be applied: {told['message']}")
        await done.wait()
