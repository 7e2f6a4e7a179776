"""The checkpoints of a rollout: found and verified, shipped to nodes, and where each node has them.

Implements `rollout.world.Ship` and `rollout.service.Catalog`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from serve_app.compare.store import ComparisonStore
from serve_app.controller.bringup import Bringup
from serve_app.controller.commit import Commit
from serve_app.controller.fleet_link import FleetLink
from serve_app.errors import CheckpointRefused, HeadroomError
from serve_app.fleet.names import NAMESPACE, depot_name
from serve_app.logs import logger
from serve_app.rollout.collecting import collect
from serve_app.rollout.depot import DepotSettings, store_root
from serve_app.rollout.depot_actor import ActorDepot, start_depot
from serve_app.rollout.record import Shipped, Weights
from serve_app.rollout.service import Checkpoint
from serve_app.rollout.ship import Shipper
from serve_app.rollout.ship_parcel import full_digest
from serve_app.training.checkpoints import Verified, read_manifest, verify_checkpoint
from serve_app.training.deployed import CHECKPOINT_NAME
from serve_app.training.manifest import Manifest
from serve_app.training.sources import models_folder

_COLLECT_S: Final = 60.0


class CheckpointShelf:
    def __init__(self, *, bringup: Bringup, commit: Commit, fleet: FleetLink, scores: ComparisonStore) -> None:
        self._bringup = bringup
        self._commit = commit
        self._fleet = fleet
        self._scores = scores
        self._depots: dict[str, ActorDepot] = {}
        self._arrived: dict[tuple[str, str], Path] = {}
        self._changing = asyncio.Lock()
        """Of what lies in the stores: what is being shipped must not be collected."""

    # -- Ship ----------------------------------------------------------------------------------------

    async def ship(self, weights: Weights, nodes: Sequence[str], *, traceparent: str | None) -> Shipped:
        """From the first node that has the checkpoint at its path: most often all see the same disk."""
        async with self._changing:
            for node in await self._fleet.node_names():
                self._depot(node)
            source = await self._source(Path(weights.path), nodes)
            shipped = await Shipper(lambda: self._depots).ship(Path(weights.path), nodes, source_node=source)
            self._arrived |= {(weights.version, arrival.node): arrival.path for arrival in shipped.arrivals}
            return Shipped(num_bytes=shipped.num_bytes, duration_s=shipped.duration_s, digest=shipped.digest)

    async def collect(self, needed: Callable[[], Collection[str]]) -> None:
        """Every node's store loses all but the weights of these versions and the newest few others.

        A node that does not answer keeps what it has until the next time.
        """
        async with self._changing:
            live = await self._fleet.node_names()
            for node in sorted(live):
                await self._collect(node, frozenset(needed()))

    async def _collect(self, node: str, versions: Collection[str]) -> None:
        try:
            async with asyncio.timeout(_COLLECT_S):  # a node that hangs must not hold up the next rollout
                gone = await collect(self._depot(node), versions)
        except (HeadroomError, TimeoutError) as error:
            _log.warning("a node's stored checkpoints could not be looked through", node=node, error=repr(error))
            return
        self._arrived = {key: path for key, path in self._arrived.items() if key[1] != node or key[0] not in gone}
        if gone:
            _log.info("stored checkpoints removed", node=node, versions=sorted(gone))

    def local_path(self, weights: Weights, node: str) -> tuple[Path, bool]:
        """Where this node has the weights, and whether its store has read every byte of them."""
        arrived = self._arrived.get((weights.version, node))
        if arrived is not None:
            return arrived, True
        stored = self._stored(weights, node)
        return (stored, True) if stored is not None else (Path(weights.path), False)

    def _stored(self, weights: Weights, node: str) -> Path | None:
        """Of before a restart of the controller; only where its disk is this one."""
        try:
            manifest = read_manifest(Path(weights.path))
        except (CheckpointRefused, OSError):
            return None
        if manifest is None or manifest.weights_version != weights.version:
            return None
        path = store_root(self._home, node) / "checkpoints" / full_digest(manifest.files)
        return path if path.is_dir() else None

    async def _source(self, path: Path, nodes: Sequence[str]) -> str:
        refused: CheckpointRefused | None = None
        for node in dict.fromkeys((*nodes, *sorted(self._depots))):
            try:
                await self._depots[node].pack(path)
            except CheckpointRefused as error:
                refused = refused or error
            else:
                return node
        assert refused is not None, "there is at least one node"
        raise refused

    def _depot(self, node: str) -> ActorDepot:
        if node not in self._depots:
            storage = self._bringup.settings.storage
            settings = DepotSettings(
                node=node,
                home=self._home,
                roots=(models_folder(self._home), *storage.model_roots),
                host=self._fleet.address(node),
            )
            options: dict[str, Any] = {
                "name": depot_name(node),
                "namespace": NAMESPACE,
                "lifetime": "detached",
                "get_if_exists": True,
                "label_selector": self._fleet.selector(node),
            }
            self._depots[node] = start_depot(settings, **options)
        return self._depots[node]

    @property
    def _home(self) -> Path:
        return self._bringup.settings.storage.home

    # -- Catalog -------------------------------------------------------------------------------------

    async def serving(self, model: str) -> Checkpoint | None:
        weights = self._commit.in_force(model)
        if weights is None:
            return None
        found = Weights(path=str(weights.path), version=weights.version, step=weights.step)
        try:
            manifest = read_manifest(weights.path)
        except (CheckpointRefused, OSError):
            manifest = None
        return self._checkpoint(weights.path.parent.name, found, manifest)

    async def find(self, model: str, *, name: str | None, version: str | None) -> Checkpoint | None:
        weights = self._commit.in_force(model)
        if weights is None or CHECKPOINT_NAME.match(weights.path.name) is None:
            return None
        folder = weights.path.parent
        path = _named(folder, name) if name is not None else await asyncio.to_thread(_of_version, folder, version)
        if path is None:
            return None
        verified = await asyncio.to_thread(verify_checkpoint, path)
        if version is not None and verified.weights_version != version:
            return None
        return self._checkpoint(folder.name, _weights(verified), verified.manifest)

    def _checkpoint(self, folder: str, weights: Weights, manifest: Manifest | None) -> Checkpoint:
        score = self._scores.latest_score(folder, weights.version)
        return Checkpoint(
            weights=weights,
            expected=score.fingerprint if score else None,
            score=score.accuracy if score else None,
            config_hash=manifest.config_hash if manifest else None,
            git_commit=manifest.git_commit if manifest else None,
            made_by=manifest.traceparent if manifest else None,
        )


def _weights(verified: Verified) -> Weights:
    return Weights(path=str(verified.path), version=verified.weights_version, step=verified.step)


def _named(folder: Path, name: str) -> Path | None:
    """A directory of this very folder and no link out of it."""
    path = folder / name
    return path if CHECKPOINT_NAME.match(name) and path.is_dir() and not path.is_symlink() else None


def _of_version(folder: Path, version: str | None) -> Path | None:
    for path in sorted(folder.iterdir()):
        if _named(folder, path.name) is None:
            continue
        try:
            manifest = read_manifest(path)
        except (CheckpointRefused, OSError):
            continue
        if manifest is not None and manifest.weights_version == version:
            return path
    return None


_log = logger("headroom.rollout")
