"""Backups of a rollout: configuration, state and weights before it; configuration and weights back on a full rollback.

Implements `rollout.world.Backup`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from serve_app.controller.bringup import Bringup
from serve_app.errors import HeadroomError
from serve_app.fleet.measurements import store_path
from serve_app.rollout.backup import Backups, Contents
from serve_app.rollout.record import Weights
from serve_app.rollout.restore import restore_weights
from serve_app.training.deployed import CHECKPOINT_NAME
from serve_app.training.sources import models_folder

ARGUMENTS: Final = "arguments.json"
"""What cluster.yaml says below `args`, as it is in force, and where its relative paths start."""
_STATE: Final = "controller.sqlite"


class LiveBackup:
    """`arguments` gives the arguments in force, `apply` has others take their place.

    State of a backup is restored while nothing runs, by `headroom backup restore`: beside running engines, tenures and
    plans of then would be wrong.
    """

    def __init__(
        self,
        *,
        bringup: Bringup,
        arguments: Callable[[], Mapping[str, Any]],
        apply: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        self._bringup = bringup
        self._arguments = arguments
        self._apply = apply

    async def back_up(self, model: str, *, reason: str) -> str:
        home = self._bringup.settings.storage.home
        contents = Contents(
            configuration={ARGUMENTS: json.dumps(self._arguments(), sort_keys=True).encode()},
            databases={_STATE: store_path(home)},
            weights=self._weights(home, model),
        )
        manifest = await asyncio.to_thread(Backups(home).create, contents, now=datetime.now(UTC), reason=reason)
        return manifest.id

    async def restore(self, backup: str, weights: Weights) -> None:
        home = self._bringup.settings.storage.home
        backups = Backups(home)
        manifest = await asyncio.to_thread(backups.verify, backup)
        await asyncio.to_thread(restore_weights, backups, manifest, models_folder(home))
        then = json.loads((backups.path_of(backup) / "configuration" / ARGUMENTS).read_bytes())
        if then != self._arguments():
            await self._apply(then)
        if not await asyncio.to_thread(Path(weights.path).is_dir):
            raise HeadroomError(f"The backup {backup} does not bring {weights.path} back.")

    def _weights(self, home: Path, model: str) -> dict[str, Path]:
        """Of the model alone: others are not changed by its rollout."""
        weights = self._bringup.state.weights.get(model)
        if weights is None or CHECKPOINT_NAME.match(weights.path.name) is None:
            return {}
        is_ours = weights.path.parent.parent == models_folder(home)
        return {weights.path.parent.name: weights.path} if is_ours else {}
