"""What gateways and the store are told of a rollout: `rollout.world.Publish` on the controller's own commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serve_app.controller.apply import Applier
from serve_app.controller.claims import Weights as SlotWeights
from serve_app.controller.commit import Commit
from serve_app.engines.fingerprint import Fingerprint
from serve_app.errors import ApplyBusy
from serve_app.gateway.routing_table import Canary
from serve_app.logs import logger
from serve_app.rollout.record import Weights

_LOOK_S: Final = 0.05
_OTHERS_S: Final = 20.0
"""How long a commit waits for another change to be through; gates are closed meanwhile."""


class Canaries:
    """Which models have new weights beside the old. `publish` tells gateways."""

    def __init__(self, publish: Callable[[], None]) -> None:
        self._publish = publish
        self._by_model: dict[str, Canary] = {}

    @property
    def all(self) -> tuple[Canary, ...]:
        return tuple(self._by_model[model] for model in sorted(self._by_model))

    def show(self, model: str, version: str, *, share: float) -> None:
        self._by_model[model] = Canary(model=model, weights_version=version, share=share, seed=version)
        self._publish()

    def clear(self, model: str) -> None:
        if self._by_model.pop(model, None) is not None:
            self._publish()


class LivePublish:
    """`lost` ends a replica whose weights are not the committed ones."""

    def __init__(
        self, *, canaries: Canaries, commit: Commit, applier: Applier, lost: Callable[[str, int], None]
    ) -> None:
        self._canaries = canaries
        self._commit = commit
        self._applier = applier
        self._lost = lost

    async def canary(self, model: str, version: str, *, share: float) -> None:
        self._canaries.show(model, version, share=share)

    async def clear_canary(self, model: str) -> None:
        self._canaries.clear(model)

    async def committed(self, model: str) -> str:
        weights = self._commit.in_force(model)
        return weights.version if weights is not None else ""

    async def commit(self, model: str, weights: Weights, *, words: Fingerprint | None) -> None:
        until_s = time.monotonic() + _OTHERS_S
        while self._applier.occupied and time.monotonic() < until_s:  # noqa: ASYNC110 - the applier has no event
            await asyncio.sleep(_LOOK_S)
        if self._applier.occupied:
            raise ApplyBusy("Another change of the cluster is under way.", advice="Roll out again when it is done.")
        strays = self._commit.commit(
            model, SlotWeights(path=Path(weights.path), version=weights.version, step=weights.step), words
        )
        for tenure in strays:
            _log.warning("a replica has weights that serve no more", replica=tenure.marker)
            self._lost(tenure.slot, tenure.epoch)


_log = logger("headroom.rollout")
