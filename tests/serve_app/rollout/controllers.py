"""A controller's rollouts over a fake cluster and a real store; a second one may follow after the first was killed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.record import Record
from serve_app.rollout.runner import Runner, Tell
from serve_app.rollout.service import Ask, RolloutService
from serve_app.rollout.stages import RolloutPolicy
from tests.serve_app.rollout.fake_world import MODEL, NEW, Cluster, FakeCatalog, FakeWorld, Killed, Points

POLICY = RolloutPolicy(canary_s=10.0, observe_s=20.0, look_s=5.0, has_checks=True)


class KillableLedger(RolloutLedger):
    """Each write is two points: it never happened, or it did and nobody heard of it."""

    def __init__(self, connection: sqlite3.Connection, points: Points) -> None:
        super().__init__(connection)
        self._points = points

    def save(self, record: Record) -> None:
        self._points.here(f"before write {record.stage}", may_fail=False)
        super().save(record)
        self._points.here(f"after write {record.stage}", may_fail=False)


@dataclass(slots=True, kw_only=True)
class Controller:
    world: FakeWorld
    catalog: FakeCatalog
    ledger: RolloutLedger
    runner: Runner
    service: RolloutService

    async def rollout(self, ask: Ask | None = None) -> Record:
        """Begun and driven to its end."""
        begun = await self.service.begin(ask or forward())
        assert isinstance(begun, Record), begun
        return await self.end_of(begun.id)

    async def end_of(self, rollout_id: int) -> Record:
        record = await self.service.ended(rollout_id)
        assert record is not None
        return record


def controller(
    cluster: Cluster,
    db: sqlite3.Connection,
    *,
    points: Points | None = None,
    policy: RolloutPolicy = POLICY,
    tell: Sequence[Tell] = (),
) -> Controller:
    fake = FakeWorld(cluster, points)
    ledger = KillableLedger(db, fake.points)
    runner = Runner(ledger=ledger, world=fake.world(), policy=policy, tell=tell)
    catalog = FakeCatalog(cluster)
    service = RolloutService(ledger=ledger, world=fake.world(), catalog=catalog, runner=runner, policy=policy)
    return Controller(world=fake, catalog=catalog, ledger=ledger, runner=runner, service=service)


def forward(**fields: object) -> Ask:
    return Ask(**{"model": MODEL, "by": "test", "version": NEW.version, **fields})  # type: ignore[arg-type]


def store() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


async def run_killed(one: Controller) -> bool:
    """Begins a rollout, or goes on with one; True when the controller was killed on the way."""
    try:
        recovered = await one.service.recover()
        if recovered is None and not one.ledger.page():
            await one.service.begin(forward())
        if one.service._driving is not None:
            await one.service._driving
    except Killed:
        return True
    finally:
        one.world.points.is_dead = True
        await _ended()
    return False


async def _ended() -> None:
    """What the dead controller had on its way ends too."""
    me = asyncio.current_task()
    rest = [task for task in asyncio.all_tasks() if task is not me]
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest)
        for task in rest:
            if not task.cancelled():
                task.exception()
