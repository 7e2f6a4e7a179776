"""Rollouts in the controller: `rollout` with the parts of the running cluster as its world."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.compare.archive import pin
from serve_app.compare.board import Board
from serve_app.config.settings import RolloutSettings
from serve_app.controller.checkpoint_shelf import CheckpointShelf
from serve_app.controller.comparison_desk import ComparisonDesk
from serve_app.controller.store import Store
from serve_app.controller.turns import Spawn
from serve_app.errors import HeadroomError
from serve_app.logs import logger
from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.orchestrator import Better, Orchestrator
from serve_app.rollout.record import Record, Stage
from serve_app.rollout.rest import answer_rollouts
from serve_app.rollout.returnable import needed, weights_of
from serve_app.rollout.runner import Runner
from serve_app.rollout.service import RolloutService
from serve_app.rollout.stages import RolloutPolicy
from serve_app.rollout.status_files import DeploymentStatus
from serve_app.rollout.telling import RolloutCounts, RolloutSpans
from serve_app.rollout.world import World
from serve_app.training.sources import models_folder
from tracing.rollout_metrics import RolloutMetrics

PINNED_BY: Final = "rollout"


class RolloutDesk:
    """`models` gives, by the name of its folder, the id of each model that is served; `in_force` its weights' version.

    `needed` are the rollouts that one can go back from.
    """

    def __init__(
        self,
        *,
        store: Store,
        world: World,
        shelf: CheckpointShelf,
        comparisons: ComparisonDesk,
        settings: Callable[[], RolloutSettings],
        models: Callable[[], dict[str, str]],
        in_force: Callable[[], Mapping[str, str]],
        metrics: RolloutMetrics,
        spawn: Spawn,
    ) -> None:
        self._comparisons = comparisons
        self._settings = settings
        self._models = models
        self._spawn = spawn
        self._shelf = shelf
        self._in_force = in_force
        self._ledger = ledger = RolloutLedger(store.connection)
        spans = RolloutSpans()
        self._status = DeploymentStatus(comparisons.home / "status", ledger)
        policy = _policy(settings())
        tell = (spans, RolloutCounts(metrics), self._status, self._ended)
        runner = Runner(ledger=ledger, world=world, policy=policy, tell=tell, context=spans.context)
        self.service = RolloutService(
            ledger=ledger, world=world, catalog=shelf, runner=runner, policy=policy, trace=spans.begin
        )
        self._orchestrator = Orchestrator(
            self.service, better=self._better, is_enabled=lambda: settings().auto, clock=world.clock
        )
        comparisons.service.on_ranked(self._ranked)

    async def start(self) -> None:
        """Goes on with what an earlier controller left, before anything new is begun."""
        await self.service.recover()
        self._status.write()
        self._spawn(self._orchestrator.watch())

    async def answer(self, asked: ControlAsked) -> ControlAnswer:
        return await answer_rollouts(self.service, asked)

    def _ranked(self, board: Board) -> None:
        better = self._of(board)
        if better is not None:
            self._spawn(self._judged(better))

    async def _judged(self, better: Better) -> None:
        await self._orchestrator.judged(better)

    async def _better(self) -> Sequence[Better]:
        found = (self._of(board) for board in self._comparisons.service.boards())
        return tuple(one for one in found if one is not None)

    def _of(self, board: Board) -> Better | None:
        model = self._models().get(board.model)
        if board.advice is None or model is None:
            return None
        return Better(model=model, version=board.advice.new.weights_version)

    def _ended(self, record: Record) -> None:
        """What served before stays for a quick rollback; comparison looks again, against what serves now.

        Once it is over, nodes lose the checkpoints that nobody can go back to.
        """
        if record.stage in (Stage.OBSERVING, Stage.RETURNED):
            self._comparisons.service.noticed()
        if record.stage is Stage.OBSERVING:
            self._spawn(self._pin(record))
        if record.is_over:
            self._spawn(self._shelf.collect(self._needed_versions))

    def needed(self) -> tuple[Record, ...]:
        return needed(self._ledger.page(), self._in_force())

    def _needed_versions(self) -> frozenset[str]:
        return frozenset((*self._in_force().values(), *(one.version for one in weights_of(self.needed()))))

    async def _pin(self, record: Record) -> None:
        path, by = Path(record.old.path), f"{PINNED_BY}-{record.id}"
        try:
            await asyncio.to_thread(_pin_ours, self._comparisons.home, path, by)
        except (HeadroomError, OSError) as error:
            _log.warning("what served before could not be pinned", checkpoint=record.old.path, reason=str(error))


class SystemClock:
    """`rollout.world.Clock`."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def unix_s(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _pin_ours(home: Path, checkpoint: Path, by: str) -> None:
    """Not in a folder outside the home: care takes nothing from there. Raises: as `pin`."""
    if checkpoint.parent.parent.resolve() == models_folder(home).resolve():
        pin(home, checkpoint.parent.name, checkpoint.name, by=by)


def _policy(settings: RolloutSettings) -> RolloutPolicy:
    return RolloutPolicy(
        canary_share=settings.canary_share,
        canary_s=settings.canary_s,
        observe_s=settings.observe_s,
        has_checks=settings.check,
    )


_log = logger("headroom.rollout")
