"""A whole deployment by hand, timed: asked for, found, backed up, shipped, prepared, switched, first traffic.

Real checkpoints, depots, backups, stage machine, service and ledger, and a replica behind its own HTTP server. With
`scripted reload` its engine is scripted and reads no weights; with `real reload` it is vLLM on the CPU.
A client asks one request after the other all the while; the longest it waited is what a user feels of the switch.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from serve_app.engines.ask_fingerprint import fingerprint_of
from serve_app.engines.fingerprint import Fingerprint
from serve_app.engines.scripted import ScriptedEngine
from serve_app.engines.scripted_weights import ScriptedWeights
from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.record import Mode, Record, Stage, Weights
from serve_app.rollout.replica_client import ReplicaClient
from serve_app.rollout.runner import Runner
from serve_app.rollout.service import Ask, Checkpoint, Refused, RolloutService
from serve_app.rollout.ship_parcel import full_digest
from serve_app.rollout.stages import RolloutPolicy
from serve_app.rollout.world import World
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.manifest import weights_version
from tests.bench.rollout_world import DATABASE, MODEL, ControllerStandIn, OneReplica, RealFiles
from tests.serve_app.gateway.serving import served

SECRET: Final = "bench"  # of a server that lives for one measurement on loopback
AIM_S: Final = 12.0
"""Row C4, for 2.7 GB."""
PACE_S: Final = 0.01
"""Between an answer and the next request: the client must not take a core from what is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """Seconds. `first_traffic_s` from the asking to the open gates; `stages_s` in order, by name.

    `wait_s` is the longest a client waited for one answer, `usual_s` the median.
    """

    reload: str
    ended: str
    found_s: float
    stages_s: dict[str, float]
    first_traffic_s: float
    pause_s: float
    reload_s: float
    wait_s: float
    usual_s: float
    num_answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two checkpoints of the same model in one folder of `home/models`, and what each version says."""

    home: Path
    old: Path
    new: Path
    said: dict[str, Fingerprint]


async def scripted(home: Path, old: Path, new: Path) -> Deployed:
    """The digest under which the node's store has them is what the scripted engine calls its weights."""
    said = {}
    for path in (old, new):
        files = verify_checkpoint(path).files
        name = old.name if path == old else full_digest(files)
        engine = ScriptedWeights(model=MODEL, version=name, num_words=8)
        said[weights_version(files)] = await fingerprint_of(engine, MODEL)
    pair = Pair(home=home, old=old, new=new, said=said)
    version = verify_checkpoint(old).weights_version
    engine_server = ScriptedEngine(model=MODEL, secret=SECRET, weights_version=version, keep_bodies=False)
    engine_server.weights.says = old.name
    async with served(engine_server) as url, aiohttp.ClientSession() as session:
        client = ReplicaClient(session, url=url, secret=SECRET)
        return await deploy(pair, client, url, reload="scripted reload")


async def deploy(pair: Pair, client: ReplicaClient, url: str, *, reload: str) -> Deployed:
    """The replica has the old weights of the pair."""
    verified = verify_checkpoint(pair.old)
    weights = Weights(path=str(pair.old), version=verified.weights_version, step=verified.step)
    with contextlib.closing(sqlite3.connect(pair.home / DATABASE, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        before = Checkpoint(weights=weights, expected=pair.said[weights.version])
        stand_in, files = ControllerStandIn(db, before, pair.said), RealFiles(pair.home, pair.old)
        replica = OneReplica(client, files)
        world = World(
            ship=files,
            replicas=replica,
            publish=stand_in,
            judge=stand_in,
            watch=stand_in,
            checks=stand_in,
            backup=files,
            clock=stand_in,
        )
        policy, ledger = RolloutPolicy(observe_s=0.0), RolloutLedger(db)
        runner = Runner(ledger=ledger, world=world, policy=policy)
        service = RolloutService(ledger=ledger, world=world, catalog=stand_in, runner=runner, policy=policy)
        async with _asking(url) as waits:
            asked_s = time.perf_counter()
            begun = await service.begin(
                Ask(model=MODEL, by="bench", checkpoint=pair.new.name, mode=Mode.IN_PLACE, observe_s=0.0)
            )
            found_s = time.perf_counter() - asked_s
            if isinstance(begun, Refused):
                raise RuntimeError(begun.message)  # noqa: TRY004 - a refusal, whatever its type
            record = await service.ended(begun.id)
        assert record is not None
        return _timed(record, waits, reload=reload, found_s=found_s, reload_s=replica.reload_s)


def _timed(record: Record, waits: list[float], *, reload: str, found_s: float, reload_s: float) -> Deployed:
    """Of a rollout that ended otherwise, `ended` says so."""
    stages_s = {one.stage.value: one.spent_s for one in record.stages if one.stage is not record.stage}
    to_traffic = [stages_s.get(stage.value, 0.0) for stage in _TO_TRAFFIC]
    waits = sorted(waits)
    return Deployed(
        reload=reload,
        ended=record.stage.value if record.stage is Stage.FINISHED else f"{record.stage.value}: {record.reason}",
        found_s=found_s,
        stages_s=stages_s,
        first_traffic_s=found_s + sum(to_traffic),
        pause_s=record.learned.closed_s or 0.0,
        reload_s=reload_s,
        wait_s=waits[-1],
        usual_s=waits[len(waits) // 2],
        num_answers=len(waits),
    )


_TO_TRAFFIC: Final = (Stage.REQUESTED, Stage.BACKED_UP, Stage.SHIPPING, Stage.PREPARING, Stage.SWITCHING)


@contextlib.asynccontextmanager
async def _asking(url: str) -> AsyncIterator[list[float]]:
    """A client that asks one request after the other until the end; seconds of each."""
    waits: list[float] = []
    ending = asyncio.Event()

    async def ask() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        async with aiohttp.ClientSession(headers={"x-headroom-internal": SECRET}) as session:
            while not ending.is_set():
                began_s = time.perf_counter()
                async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                    await answer.read()
                    answer.raise_for_status()
                waits.append(time.perf_counter() - began_s)
                await asyncio.sleep(PACE_S)

    asking = asyncio.create_task(ask())
    try:
        yield waits
    finally:
        ending.set()
        await asking


def show(deployed: Deployed, num_bytes: int) -> None:
    print(f"\nwhole deployment by hand of {num_bytes / 1e9:.2f} GB, {deployed.reload}: {deployed.ended}")
    stages = ", ".join(f"{name} {spent_s:.2f}" for name, spent_s in deployed.stages_s.items())
    print(f"  found and verified {deployed.found_s:.2f} s; stages in s: {stages}")
    print(f"  asked to first traffic {deployed.first_traffic_s:.2f} s (row C4: about {AIM_S:.0f} s for 2.7 GB)")
    print(f"  gates closed {deployed.pause_s:.3f} s, of which reload {deployed.reload_s:.3f} s")
    print(
        f"  a client waited {deployed.wait_s:.3f} s at most, {deployed.usual_s:.4f} s mostly ({deployed.num_answers})"
    )
