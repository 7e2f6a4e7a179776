"""The whole road from a job to other weights in an engine, and the spans that it leaves: parents, links, attributes.

Jobs, comparison, rollout and the engine's switch are the real ones; placer, host, scorer and the cluster around the
engines are scripted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from serve_app.compare.service import ComparisonService
from serve_app.compare.store import ComparisonStore
from serve_app.engines.scripted import ScriptedEngine
from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.record import Record, Stage, Weights
from serve_app.rollout.replica_client import ReplicaClient
from serve_app.rollout.runner import Runner
from serve_app.rollout.service import Checkpoint, RolloutService
from serve_app.rollout.telling import RolloutSpans
from serve_app.rollout.world import Loaded, Replica
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.manifest import MANIFEST_NAME
from serve_app.training.writer import Origin, write_checkpoint
from tests.serve_app.compare.builders import FakeScorer, Home, database
from tests.serve_app.controller.traced import Traced, traced
from tests.serve_app.gateway.serving import served
from tests.serve_app.jobs.world import World as JobWorld
from tests.serve_app.jobs.world import saved, script
from tests.serve_app.rollout.controllers import POLICY, forward, store
from tests.serve_app.rollout.fake_world import MODEL, OLD, Cluster, FakeCatalog, FakeWorld
from tests.serve_app.training.tiny import tiny_checkpoint
from tracing import names
from tracing.job_spans import JobSpans
from tracing.propagation import parse_traceparent
from tracing.spans import within

CONTROLLERS = (names.JobSpan.SUBMIT, names.JobSpan.SCHEDULE, names.JobSpan.RUN, names.JobSpan.SETTLE)

SECRET = "s3cret"
CALLER_TRACE, CALLER_SPAN = "a" * 32, "b" * 16
STEP = 10


class RealEngines(FakeWorld):
    """The fake cluster, whose replicas switch scripted engines over HTTP, each under the rollout's own context."""

    def __init__(self, cluster: Cluster, clients: Mapping[str, ReplicaClient]) -> None:
        super().__init__(cluster)
        self._clients = clients

    async def switch(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> Loaded:
        client = self._clients[replica.name]
        with within(parse_traceparent(traceparent.encode()) if traceparent else None):
            await client.prepare(Path(weights.path), weights.version, verified=True)
            await client.close(deadline_s=60)
            await client.switch(weights.version, expected=None, drain_s=5, limit_s=5)
            await client.open(weights.version)
        return await super().switch(replica, weights, traceparent=traceparent)


class OneCheckpoint(FakeCatalog):
    """Knows what its manifest says of the checkpoint that was compared."""

    def __init__(self, cluster: Cluster, weights: Weights) -> None:
        super().__init__(cluster)
        self.weights = weights
        self.known[weights.version] = weights
        self.compared.add(weights.version)

    def _of(self, version: str) -> Checkpoint:
        manifest = verify_checkpoint(Path(self.weights.path)).manifest if version == self.weights.version else None
        return replace(super()._of(version), made_by=manifest.traceparent if manifest else None)


@dataclass(frozen=True, slots=True)
class Road:
    """What was done, and the spans it left."""

    traced: Traced
    job_id: str
    weights: Weights
    rollout: Record

    def span(self, name: str) -> ReadableSpan:
        return self.traced.span(name)

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.traced.kept.spans if span.name == name]


async def train(tmp_path: Path, home: Home, seen: Traced) -> tuple[str, Path]:
    """A job from its submission to its checkpoint, whose manifest names the run; the job's id and the checkpoint."""
    world = JobWorld(tmp_path / "jobs.sqlite", spans=JobSpans(seen.exporting))
    job_id = world.submit(script(traceparent=f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"))
    world.pass_s(90)
    await world.round()
    run = world.run(job_id)
    origin = Origin(
        model="tiny",
        step=STEP,
        config_hash="c" * 64,
        seed=1,
        created_at=datetime.fromtimestamp(0, UTC),
        traceparent=run.order.traceparent,
    )
    checkpoint = write_checkpoint(home.folder, origin, fill=_as_tiny)
    run.say(saved(STEP))
    run.end()
    await world.settle()
    await world.service.close()
    return job_id, checkpoint


def _as_tiny(folder: Path) -> None:
    for file in tiny_checkpoint().iterdir():
        if file.name != MANIFEST_NAME:
            (folder / file.name).write_bytes(file.read_bytes())


async def compare(home: Home, seen: Traced) -> None:
    await ComparisonService(
        home=home.path,
        store=ComparisonStore(database()),
        scorer=FakeScorer(),
        clock=lambda: 1.0,
        exporting=seen.exporting,
    ).turn()


async def roll_out(weights: Weights, seen: Traced) -> Record:
    cluster = Cluster()
    cluster.room = replace(cluster.room, fits=False)
    async with _clients(cluster, seen) as clients:
        world = RealEngines(cluster, clients).world()
        ledger, spans = RolloutLedger(store()), RolloutSpans(exporting=seen.exporting)
        runner = Runner(ledger=ledger, world=world, policy=POLICY, tell=[spans], context=spans.context)
        catalog = OneCheckpoint(cluster, weights)
        service = RolloutService(
            ledger=ledger, world=world, catalog=catalog, runner=runner, policy=POLICY, trace=spans.begin
        )
        await service.begin(forward(version=weights.version))
        done = await service.ended(1)
    assert done is not None
    return done


@contextlib.asynccontextmanager
async def _clients(cluster: Cluster, seen: Traced) -> AsyncIterator[dict[str, ReplicaClient]]:
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        clients = {}
        for name in cluster.engines:
            engine = ScriptedEngine(model=MODEL, secret=SECRET, weights_version=OLD.version, exporting=seen.exporting)
            url = await stack.enter_async_context(served(engine))
            clients[name] = ReplicaClient(session, url=url, secret=SECRET)
        yield clients


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    home = Home(tmp_path)
    home.test_set(*"abcdefghij")
    with traced() as seen:
        job_id, checkpoint = await train(tmp_path, home, seen)
        await compare(home, seen)
        version = verify_checkpoint(checkpoint).weights_version
        weights = Weights(path=str(checkpoint), version=version, step=STEP)
        yield Road(seen, job_id, weights, await roll_out(weights, seen))


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def links_of(span: ReadableSpan) -> list[tuple[str, str]]:
    return [(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links]


class TestTheRoad:
    async def test_begins_as_one_trace_from_the_caller_over_queue_and_run(self, road: Road) -> None:
        submit, schedule, run, settle = (road.span(name) for name in CONTROLLERS)
        assert {trace_of(span) for span in (submit, schedule, run, settle)} == {CALLER_TRACE}
        above = [parent_of(span) for span in (submit, schedule, run, settle)]
        assert above == [CALLER_SPAN, id_of(submit), id_of(schedule), id_of(run)]
        assert (schedule.attributes or {})[names.JOB_WAIT_S] == 90.0
        assert (schedule.attributes or {})[names.JOB_ID] == road.job_id
        assert [event.name for event in run.events] == ["checkpoint.saved"]

    async def test_goes_on_in_traces_that_link_to_the_run_that_made_the_weights(self, road: Road) -> None:
        run, compared, rolled = road.span("job.run"), road.span("compare tiny"), road.span(f"rollout {MODEL}")
        assert links_of(compared) == links_of(rolled) == [(trace_of(run), id_of(run))]
        assert (compared.parent, rolled.parent) == (None, None)
        assert len({trace_of(span) for span in (run, compared, rolled)}) == 3

    async def test_has_every_stage_below_its_rollout_and_every_reload_below_its_stage(self, road: Road) -> None:
        rolled = road.span(f"rollout {MODEL}")
        assert trace_of(rolled) == road.rollout.trace_id
        stages = [span for span in road.traced.kept.spans if span.name.startswith("rollout.")]
        passed = [one.stage for one in road.rollout.stages if one.stage is not Stage.FINISHED]
        assert {span.name for span in stages} == {names.ROLLOUT_STAGE_SPAN.format(stage) for stage in passed}
        assert {(trace_of(span), parent_of(span)) for span in stages} == {(trace_of(rolled), id_of(rolled))}
        switching, reloads = road.span("rollout.switching"), road.all(f"reload {MODEL}")
        assert len(reloads) == 3, "one for each replica"
        assert {(trace_of(one), parent_of(one)) for one in reloads} == {(trace_of(switching), id_of(switching))}

    async def test_names_the_same_weights_all_the_way(self, road: Road) -> None:
        assert road.rollout.stage is Stage.FINISHED
        named = [road.span("compare tiny"), road.span(f"rollout {MODEL}"), *road.all(f"reload {MODEL}")]
        assert {(span.attributes or {})[names.WEIGHTS_VERSION] for span in named} == {road.weights.version}
        assert (road.span("compare tiny").attributes or {})[names.ACCURACY] == 1.0
        facts = road.span(f"rollout {MODEL}").attributes or {}
        assert (facts[names.ROLLOUT_FROM], facts[names.ROLLOUT_WAY]) == (OLD.version, "in_place")
