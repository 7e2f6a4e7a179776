"""The world of a rollout as the bench has it: real files, depots, backups and replicas over HTTP, no Ray.

One node, one replica behind its own HTTP server. What stands in for the controller says so in its name.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from serve_app.engines.fingerprint import Fingerprint
from serve_app.rollout.backup import Backups, Contents
from serve_app.rollout.content_store import Received
from serve_app.rollout.depot import Depot, DepotSettings
from serve_app.rollout.depot_server import Offer
from serve_app.rollout.record import Room, Shipped, Weights
from serve_app.rollout.replica_client import ReplicaClient
from serve_app.rollout.service import Checkpoint
from serve_app.rollout.ship import Shipper
from serve_app.rollout.ship_parcel import Packed
from serve_app.rollout.triggers import CheckFound, Signals, Traffic
from serve_app.rollout.world import Loaded, Replica
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import write_deployed

MODEL: Final = "bench"
NODE: Final = "head"
DATABASE: Final = "controller.sqlite"
_LIMIT_S: Final = 300.0


class Near:
    """`ship.DepotLink` of a depot in this process, each call in a thread, as an actor would have it."""

    def __init__(self, home: Path) -> None:
        self._depot = Depot(DepotSettings(node=NODE, home=home, roots=(home / "models",)))

    async def pack(self, checkpoint: Path) -> Packed:
        return await asyncio.to_thread(self._depot.pack, checkpoint)

    async def offer(self, packed: Packed) -> Offer:
        return await asyncio.to_thread(self._depot.offer, packed)

    async def withdraw(self, offer: str) -> None:
        self._depot.withdraw(offer)

    async def sees(self, packed: Packed) -> bool:
        return await asyncio.to_thread(self._depot.sees, packed)

    async def copy(self, packed: Packed) -> Received:
        return await asyncio.to_thread(self._depot.copy, packed)

    async def fetch(self, packed: Packed, offer: Offer, *, source_node: str, within_s: float) -> Received:
        return await asyncio.to_thread(self._depot.fetch, packed, offer, source_node=source_node, within_s=within_s)


class RealFiles:
    """`world.Ship` and `world.Backup`: one node's real depot, real backups with the old weights in them."""

    def __init__(self, home: Path, old: Path) -> None:
        self._home = home
        self._old = old
        self._near = Near(home)
        self.paths: dict[str, Path] = {}
        """Where the node has each version that was shipped."""

    async def ship(self, weights: Weights, nodes: Sequence[str], *, traceparent: str | None) -> Shipped:
        shipped = await Shipper(lambda: {NODE: self._near}).ship(Path(weights.path), nodes, source_node=NODE)
        self.paths |= {weights.version: shipped.arrivals[0].path}
        return Shipped(num_bytes=shipped.num_bytes, duration_s=shipped.duration_s, digest=shipped.digest)

    async def back_up(self, model: str, *, reason: str) -> str:
        contents = Contents(databases={DATABASE: self._home / DATABASE}, weights={model: self._old})
        backups = await asyncio.to_thread(Backups, self._home)
        return (await asyncio.to_thread(backups.create, contents, now=datetime.now(UTC), reason=reason)).id

    async def restore(self, backup: str, weights: Weights) -> None:
        raise NotImplementedError("the bench takes nothing back")


class OneReplica:
    """`world.Replicas`: asked over HTTP as the controller does; there is no room for a second."""

    def __init__(self, client: ReplicaClient, files: RealFiles) -> None:
        self._client = client
        self._paths = files.paths
        self.reload_s = 0.0

    async def serving(self, model: str) -> Sequence[Replica]:
        return (Replica(name="one", node=NODE, url="", weights=(await self._client.state()).version or ""),)

    async def prepare(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> None:
        await self._client.prepare(self._paths[weights.version], weights.version, verified=True)

    async def close(self, replica: Replica, *, deadline_s: float, traceparent: str | None) -> None:
        await self._client.close(deadline_s=_LIMIT_S)
        while (await self._client.state()).num_running:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)

    async def switch(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> Loaded:
        began_s = time.perf_counter()
        done = await self._client.switch(weights.version, expected=None, drain_s=10.0, limit_s=_LIMIT_S)
        self.reload_s = time.perf_counter() - began_s
        return Loaded(vram_bytes=done.measured_bytes)

    async def fingerprint(self, replica: Replica, *, traceparent: str | None) -> Fingerprint:
        return (await self._client.fingerprint()).fingerprint

    async def open(self, replica: Replica, *, traceparent: str | None) -> None:
        await self._client.open((await self._client.state()).version or "")

    async def die(self, replica: Replica, *, reason: str) -> None:
        raise RuntimeError(f"the replica would be started again: {reason}")

    async def candidate_room(self, model: str) -> Room:
        return Room(needed_bytes=1, free_bytes=0, fits=False)

    async def stand_beside(self, model: str, weights: Weights, *, traceparent: str | None) -> Replica:
        raise NotImplementedError("in place only")

    async def end_candidate(self, model: str) -> None:
        pass


class ControllerStandIn:
    """`world.Publish`, `Judge`, `Watch`, `Checks`, `Clock`, the catalog: a commit is one SQLite write and the link.

    `said` is what each version says to the fixed prompts.
    """

    def __init__(self, db: sqlite3.Connection, old: Checkpoint, said: Mapping[str, Fingerprint]) -> None:
        self._db = db
        self._serving = old
        self._said = said
        db.execute("CREATE TABLE IF NOT EXISTS served (model TEXT PRIMARY KEY, path TEXT)")

    async def canary(self, model: str, version: str, *, share: float) -> None:
        raise NotImplementedError("in place only")

    async def clear_canary(self, model: str) -> None:
        pass

    async def committed(self, model: str) -> str:
        return self._serving.weights.version

    async def commit(self, model: str, weights: Weights, *, words: Fingerprint | None) -> None:
        self._db.execute("INSERT OR REPLACE INTO served VALUES (?, ?)", (model, weights.path))
        self._serving = Checkpoint(weights=weights, expected=self._said[weights.version])
        write_deployed(Path(weights.path).parent, Path(weights.path))

    async def traffic(self, model: str, version: str) -> Traffic:
        return Traffic()

    async def test_set(self, model: str, replica: Replica, *, traceparent: str | None) -> float | None:
        return None

    async def found(self, rollout_id: int, model: str) -> tuple[CheckFound, ...] | None:
        return ()

    async def signals(self, model: str) -> Signals:
        return Signals()

    async def serving(self, model: str) -> Checkpoint | None:
        return self._serving

    async def find(self, model: str, *, name: str | None, version: str | None) -> Checkpoint | None:
        """Reads every byte, as the controller's does."""
        assert name is not None
        path = Path(self._serving.weights.path).parent / name
        found = await asyncio.to_thread(verify_checkpoint, path)
        weights = Weights(path=str(path), version=found.weights_version, step=found.step)
        return Checkpoint(weights=weights, expected=self._said[found.weights_version])

    def monotonic_s(self) -> float:
        return time.monotonic()

    def unix_s(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
