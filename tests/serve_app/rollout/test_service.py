"""Rollouts through the service, its REST pages, its files and its spans, over a fake cluster and a real store."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.api.control_routes import ControlAsked
from serve_app.rollout.ledger import KEPT, RolloutLedger
from serve_app.rollout.orchestrator import Better, Orchestrator
from serve_app.rollout.record import Kind, Mode, Record, Stage
from serve_app.rollout.rest import answer_rollouts
from serve_app.rollout.service import RefusalReason, Refused
from serve_app.rollout.stages import begin
from serve_app.rollout.status_files import DEPLOYMENT_STATUS, DeploymentStatus
from serve_app.rollout.triggers import CheckFound, Passed, Signals, TriggerKind
from serve_app.rollout.views import view_of
from tests.serve_app.rollout.controllers import POLICY, Controller, controller, forward, store
from tests.serve_app.rollout.fake_world import MODEL, NEW, OLD, Cluster
from tests.serve_app.rollout.test_stages import record


async def page(one: Controller, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
    raw = b"" if body is None else json.dumps(body).encode()
    answer = await answer_rollouts(one.service, ControlAsked(method=method, path=path, body=raw))
    return answer.status, json.loads(answer.body)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


class TestARollout:
    async def test_is_recorded_with_every_field_of_the_row(self) -> None:
        done = await controller(Cluster(), store()).rollout()
        view = view_of(done).model_dump()
        assert (view["checkpoint_step"], view["score"], view["status"]) == (200, 0.9, "finished")
        assert (view["config_hash"], view["git_commit"]) == ("c" * 8, "abc")
        assert (view["transfer_duration_sec"], view["reload_vram_gb"]) == (0.5, 3.0)

    async def test_goes_in_place_where_there_is_no_room_and_says_the_bytes(self) -> None:
        cluster = Cluster()
        cluster.room = replace(cluster.room, free_bytes=1 << 30, fits=False)
        one = controller(cluster, store())
        done = await one.rollout()
        assert done.learned.room == cluster.room
        assert "stand" not in one.world.asked

    async def test_side_by_side_without_room_is_refused_before_anything_is_copied(self) -> None:
        cluster = Cluster()
        cluster.room = replace(cluster.room, free_bytes=1 << 30, fits=False)
        one = controller(cluster, store())
        refused = await one.rollout(forward(mode=Mode.SIDE_BY_SIDE))
        assert refused.stage is Stage.REFUSED
        assert "2.0 GiB" in refused.reason
        assert one.world.asked == ["back_up"]

    async def test_whose_candidate_fails_the_test_set_never_gets_traffic(self) -> None:
        cluster = Cluster()
        cluster.accuracy = 0.5
        one = controller(cluster, store())
        done = await one.rollout()
        assert (done.stage, done.trigger) == (Stage.RETURNED, TriggerKind.QUALITY_WORSE)
        assert "canary" not in one.world.asked

    async def test_ends_a_replica_that_cannot_go_back(self) -> None:
        cluster = Cluster()
        cluster.room = replace(cluster.room, fits=False)
        cluster.mad = {"b"}
        done = await controller(cluster, store()).rollout()
        assert done.stage is Stage.RETURNED
        assert cluster.deaths == ["b"]
        cluster.check_rest()

    async def test_is_refused_while_a_device_is_too_hot(self) -> None:
        cluster = Cluster()
        cluster.signals = Signals(temperature_c={"n1/gpu-0": 95.0})
        done = await controller(cluster, store()).rollout()
        assert (done.stage, done.trigger) == (Stage.REFUSED, TriggerKind.TEMPERATURE_HIGH)

    async def test_whose_checks_pass_is_finished_with_them_on_record(self) -> None:
        one = controller(Cluster(), store(), policy=replace(POLICY, has_checks=True))
        done = await one.rollout(forward(observe_s=0.0))
        assert done.stage is Stage.FINISHED
        assert view_of(done).model_dump()["checks"] == (
            {"check": "service.chat", "status": "PASS", "measured": "0.1 s", "reason": ""},
        )

    async def test_whose_checks_fail_goes_back_by_itself(self) -> None:
        cluster = Cluster()
        cluster.checks = (CheckFound(check="service.chat", passed=Passed.FAIL, reason="Status 500."),)
        done = await controller(cluster, store(), policy=replace(POLICY, has_checks=True)).rollout()
        assert (done.stage, done.trigger) == (Stage.RETURNED, TriggerKind.CHECK_FAILED)
        assert cluster.committed == OLD.version
        cluster.check_rest()

    async def test_that_hangs_is_ended_by_its_limit(self) -> None:
        limits = dict.fromkeys(POLICY.limits_s, 0.0)
        done = await controller(Cluster(), store(), policy=replace(POLICY, limits_s=limits)).rollout()
        assert done.stage is Stage.REFUSED
        assert "back_up was not done within 0 s" in done.reason


class TestTheService:
    async def test_lets_one_of_two_in(self) -> None:
        one = controller(Cluster(), store())
        first = await one.service.begin(forward())
        second = await one.service.begin(forward())
        assert isinstance(first, Record)
        assert isinstance(second, Refused)
        assert second.reason is RefusalReason.BUSY
        await one.end_of(first.id)

    @pytest.mark.parametrize(
        ("ask", "reason"),
        [
            (forward(model="other"), RefusalReason.UNKNOWN_MODEL),
            (forward(version="2" * 12), RefusalReason.UNKNOWN_CHECKPOINT),
            (forward(version=OLD.version), RefusalReason.SERVES_ALREADY),
        ],
    )
    async def test_refuses_with_a_reason(self, ask: object, reason: RefusalReason) -> None:
        answer = await controller(Cluster(), store()).service.begin(ask)  # type: ignore[arg-type]
        assert isinstance(answer, Refused)
        assert answer.reason is reason

    async def test_refuses_what_nobody_compared(self) -> None:
        one = controller(Cluster(), store())
        one.catalog.compared = {OLD.version}
        answer = await one.service.begin(forward())
        assert isinstance(answer, Refused)
        assert answer.reason is RefusalReason.NOT_COMPARED

    @pytest.mark.parametrize("is_full", [False, True])
    async def test_takes_a_finished_one_back_as_one_of_its_own(self, is_full: bool) -> None:
        cluster = Cluster()
        one = controller(cluster, store())
        done = await one.rollout()
        begun = await one.service.roll_back(done.id, by="x", is_full=is_full)
        assert isinstance(begun, Record)
        back = await one.end_of(begun.id)
        assert (back.kind, back.stage) == (Kind.FULL if is_full else Kind.QUICK, Stage.FINISHED)
        assert cluster.committed == OLD.version
        assert cluster.restored == (["backup-1"] if is_full else [])
        assert isinstance(await one.service.roll_back(done.id, by="x"), Refused)

    async def test_reloads_the_weights_that_serve(self) -> None:
        cluster = Cluster()
        status, told = await page(controller(cluster, store()), "POST", "/models/reload", {"model": MODEL})
        assert (status, told["status"], told["step"], told["vram_gb"]) == (200, "finished", 100, 3.0)
        assert [engine.num_switches for engine in cluster.engines.values()] == [1, 1, 1]


class TestThePages:
    async def test_of_two_deployments_give_the_second_409(self) -> None:
        one = controller(Cluster(), store())
        body = {"model": MODEL, "checkpoint": "checkpoint-200"}
        assert (await page(one, "POST", "/v1/rollouts", body))[0] == 202
        assert (await page(one, "POST", "/v1/rollouts", body))[0] == 409
        await one.end_of(1)
        assert (await page(one, "GET", "/v1/rollouts/1"))[1]["status"] == "finished"
        status, told = await page(one, "GET", "/v1/rollouts")
        assert (status, told["next"]) == (200, None)

    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("POST", "/v1/rollouts", {"model": MODEL}, 400),
            ("POST", "/v1/rollouts", {"model": MODEL, "checkpoint": "../checkpoint-1"}, 400),
            ("POST", "/v1/rollouts", {"model": MODEL, "checkpoint": "checkpoint-1", "observe_s": -1}, 400),
            ("POST", "/v1/rollouts", {"model": MODEL, "checkpoint": "checkpoint-1", "x": 1}, 400),
            ("POST", "/v1/rollouts", {"model": MODEL, "checkpoint": "checkpoint-1"}, 404),
            ("DELETE", "/v1/rollouts", None, 405),
            ("GET", "/v1/rollouts/7", None, 404),
            ("GET", "/v1/rollouts/7/pause", None, 405),
            ("POST", "/v1/rollouts/7/pause", None, 404),
            ("POST", "/v1/rollouts/7/forget", None, 404),
            ("POST", "/models/reload", {}, 400),
        ],
    )
    async def test_refuse_what_is_wrong(self, method: str, path: str, body: object, status: int) -> None:
        answer = await page(controller(Cluster(), store()), method, path, body)
        assert answer[0] == status
        assert answer[1]["error"]


class TestTheLedger:
    def test_keeps_the_last_hundred(self) -> None:
        ledger = RolloutLedger(store())
        for _ in range(KEPT + 5):
            added = ledger.add(record())
            assert added is not None
            ledger.save(replace(added, stage=Stage.FINISHED))
        kept = [one.id for one in ledger.page()]
        assert (len(kept), kept[0], kept[-1]) == (KEPT, KEPT + 5, 6)
        assert ledger.get(5) is None

    def test_gives_back_what_was_written(self) -> None:
        ledger = RolloutLedger(store())
        added = ledger.add(record())
        assert added is not None
        written = begin(added, unix_s=1.5).record
        ledger.save(written)
        assert ledger.current() == written

    async def test_that_cannot_be_written_leaves_the_old_weights(self) -> None:
        cluster, db = Cluster(), store()
        one = controller(cluster, db)
        begun = await one.service.begin(forward())
        assert isinstance(begun, Record)
        trigger = "CREATE TRIGGER full BEFORE UPDATE ON rollouts WHEN NEW.stage = 'committed' BEGIN {} END"
        db.execute(trigger.format("SELECT RAISE(ABORT, 'database or disk is full');"))
        done = await one.end_of(begun.id)
        assert done.stage is Stage.RETURNED
        assert "disk is full" in done.reason
        cluster.check_rest()


class TestTheStatusFile:
    async def test_is_there_whole_and_a_full_disk_stops_no_rollout(self, tmp_path: Path) -> None:
        db = store()
        has_room = True

        def replaced(new: Path, old: Path) -> None:
            if not has_room:
                raise OSError(errno.ENOSPC, "No space left")
            new.replace(old)

        status = DeploymentStatus(tmp_path, RolloutLedger(db), replace=replaced)
        status.write()
        has_room = False
        one = controller(Cluster(), db, tell=[status])
        assert (await one.rollout()).stage is Stage.FINISHED
        assert json.loads((tmp_path / DEPLOYMENT_STATUS).read_text())["deployments"] == []
        has_room = True
        status.write()
        assert json.loads((tmp_path / DEPLOYMENT_STATUS).read_text())["deployments"][0]["status"] == "finished"
        assert names_in(tmp_path) == [DEPLOYMENT_STATUS]


class TestTheOrchestrator:
    async def test_never_begins_weights_that_were_turned_away(self) -> None:
        cluster = Cluster()
        cluster.garbage = {NEW.version}
        one = controller(cluster, store())

        async def better() -> list[Better]:
            return [Better(model=MODEL, version=NEW.version)]

        made = Orchestrator(one.service, better=better, is_enabled=lambda: True, clock=one.world.clock)
        begun = await made.look()
        assert begun is not None
        assert (await one.end_of(begun.id)).stage is Stage.RETURNED
        assert await made.look() is None

    async def test_begins_nothing_while_it_is_off(self) -> None:
        one = controller(Cluster(), store())

        async def better() -> list[Better]:
            return [Better(model=MODEL, version=NEW.version)]

        assert (
            await Orchestrator(one.service, better=better, is_enabled=lambda: False, clock=one.world.clock).look()
            is None
        )
