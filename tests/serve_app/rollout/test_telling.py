"""What a rollout shows of itself: spans, counts, and the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from serve_app.cli import main
from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.runner import Runner
from serve_app.rollout.service import RolloutService
from serve_app.rollout.telling import RolloutCounts, RolloutSpans
from serve_app.rollout.views import RolloutView, view_of
from tests.serve_app.cli.loopback import answering
from tests.serve_app.controller.traced import Traced, traced
from tests.serve_app.rollout.controllers import POLICY, controller, forward, store
from tests.serve_app.rollout.fake_world import NEW, Cluster, FakeCatalog, FakeWorld
from tracing import names
from tracing.metrics import Recorder
from tracing.rollout_metrics import RolloutMetrics


@pytest.fixture
def seen() -> Iterator[Traced]:
    with traced() as found:
        yield found


class TestSpans:
    async def test_of_the_stages_are_children_of_the_rollout_which_is_linked_to_the_training_run(
        self, seen: Traced
    ) -> None:
        fake, db = FakeWorld(Cluster()), store()
        spans, ledger = RolloutSpans(exporting=seen.exporting), RolloutLedger(db)
        runner = Runner(ledger=ledger, world=fake.world(), policy=POLICY, tell=[spans], context=spans.context)
        service = RolloutService(
            ledger=ledger,
            world=fake.world(),
            catalog=FakeCatalog(fake.cluster),
            runner=runner,
            policy=POLICY,
            trace=spans.begin,
        )
        await service.begin(forward())
        done = await service.ended(1)
        assert done is not None
        found = {span.name: span for span in seen.kept.spans}
        road = found["rollout mini"]
        assert f"{road.context.trace_id:032x}" == done.trace_id
        assert [f"{link.context.trace_id:032x}" for link in road.links] == ["a" * 32]
        stages = {name: span for name, span in found.items() if name.startswith("rollout.")}
        assert set(stages) == {names.ROLLOUT_STAGE_SPAN.format(one.stage) for one in done.stages[:-1]}
        assert {span.parent.span_id for span in stages.values() if span.parent} == {road.context.span_id}
        assert (found["rollout.shipping"].attributes or {})[names.WEIGHTS_VERSION] == NEW.version
        switching = f"{found['rollout.switching'].context.span_id:016x}"
        assert switching in (fake.contexts["switch"] or "")


class TestCounts:
    @pytest.mark.parametrize(("is_garbage", "result"), [(False, "finished"), (True, "rolled_back")])
    async def test_of_results_and_stage_times(self, is_garbage: bool, result: str) -> None:
        recorder, cluster = Recorder("test"), Cluster()
        cluster.garbage = {NEW.version} if is_garbage else set()
        await controller(cluster, store(), tell=[RolloutCounts(RolloutMetrics(recorder))]).rollout()
        (told,) = recorder.drain()
        counted = {labels[0]: value for (name, labels), value in told.counters.items() if name == names.ROLLOUTS.name}
        assert counted == dict.fromkeys(names.ROLLOUT_RESULTS, 0.0) | {result: 1.0}
        timed = {labels[0] for name, labels in told.histograms if name == names.ROLLOUT_STAGE.name}
        assert "canary" in timed


async def a_view() -> RolloutView:
    return view_of(await controller(Cluster(), store()).rollout())


class TestTheCommand:
    async def test_show_draws_every_stage_with_its_time(self) -> None:
        view = (await a_view()).model_dump(mode="json")
        with answering({"/v1/rollouts/1": view}) as address:
            shown = CliRunner().invoke(main, ["rollouts", "show", "1", "--address", address])
        assert shown.exit_code == 0
        for stage in view["stages"]:
            assert f"\n {stage['stage']} " in shown.output
        assert "one more replica needs 2.00 GiB, 4.00 GiB are free" in shown.output

    def test_an_unknown_id_is_told_with_the_controllers_sentence(self) -> None:
        told = {"message": "There is no rollout 9.", "origin": "controller", "code": "unknown_rollout"}
        error = {"error": told}
        with answering({"/v1/rollouts/9": error}, status=404) as address:
            shown = CliRunner().invoke(main, ["rollouts", "show", "9", "--address", address])
        assert (shown.exit_code, "There is no rollout 9." in shown.output) == (1, True)

    def test_a_second_rollout_is_refused_with_exit_code_1(self) -> None:
        error = {"error": {"message": "Rollout 1 of 'mini' is shipping.", "origin": "controller"}}
        with answering({"/v1/rollouts": error}, status=409) as address:
            asked = ["rollouts", "deploy", "mini", "--checkpoint", "checkpoint-1", "--address", address]
            shown = CliRunner().invoke(main, asked)
        assert (shown.exit_code, "is shipping" in shown.output) == (1, True)
