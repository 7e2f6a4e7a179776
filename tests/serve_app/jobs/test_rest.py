"""`/v1/jobs` and `SubmitJob`: what is taken, what is refused and how, and what is shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.api.control_routes import ControlAsked
from serve_app.jobs.job import JobState
from serve_app.jobs.rest import JobCalls
from serve_app.jobs.wire import TRAINER, TRAINER_BYTES
from serve_app.leases.rpcs import Handlers, RpcError, messages_and_services
from serve_app.training.job_config import read_job_config
from serve_app.training.tasks import TaskKind
from tests.serve_app.jobs.world import World, progress, saved
from tests.serve_app.leases.serving import Bench, grpc_stub, running, zeromq_socket

SCRIPT: dict[str, Any] = {"kind": "script", "command": ["python", "x.py"], "num_bytes": "2GiB"}
TRAIN: dict[str, Any] = {"kind": "train", "model": "mini", "config": {"steps": 50}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "dance"}, "kind"),
    ({"kind": "score", "model": "mini"}, "kind"),
    ({"kind": "train"}, "model"),
    ({**TRAIN, "model": "../up"}, "model"),
    ({**TRAIN, "command": ["rm"]}, "command"),
    ({"kind": "script", "num_bytes": 1}, "command"),
    ({"kind": "script", "command": ["x"]}, "num_bytes"),
    ({**SCRIPT, "command": "python x.py"}, "command"),
    ({**SCRIPT, "command": ["a\0b"]}, "command.0"),
    ({**SCRIPT, "num_bytes": "much"}, "num_bytes"),
    ({**SCRIPT, "num_bytes": 0}, "num_bytes"),
    ({**SCRIPT, "priority": 1001}, "priority"),
    ({**SCRIPT, "priority": -1}, "priority"),
    ({**SCRIPT, "run_s": float("inf")}, "run_s"),
    ({**SCRIPT, "num_devices": 0}, "num_devices"),
    ({**SCRIPT, "surprise": 1}, "surprise"),
    ({**SCRIPT, "resume_from": "../checkpoint-1"}, "resume_from"),
    ({**SCRIPT, "resume_from": "/etc"}, "resume_from"),
    ({**SCRIPT, "traceparent": "00-1-2-3"}, "traceparent"),
    ({**TRAIN, "config": {"text": "x" * 70_000}}, "config"),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "state.sqlite")
    yield made
    await made.service.close()


@pytest.fixture
def calls(world: World, tmp_path: Path) -> JobCalls:
    return JobCalls(world.service, roots=(tmp_path / "models",))


async def ask(calls: JobCalls, method: str, path: str, body: object = None, **query: str) -> tuple[int, Any]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await calls.answer(ControlAsked(method=method, path=f"/v1/jobs{path}", query=query, body=sent))
    return answer.status, json.loads(answer.body)


class TestReview:
    async def test_is_a_page_of_its_own_and_no_job_s(self, calls: JobCalls) -> None:
        status, told = await ask(calls, "GET", "/review", days="30")
        assert (status, told["days"], told["num_runs"]) == (200, 30, 0)
        assert (await ask(calls, "GET", "/review", days="0"))[0] == 400


class TestSubmitting:
    async def test_a_script_takes_its_command_as_it_is(self, calls: JobCalls, world: World) -> None:
        status, told = await ask(calls, "POST", "", SCRIPT)
        assert (status, told["state"], told["command"]) == (201, "queued", ["python", "x.py"])
        assert world.job(told["id"]).spec.num_bytes == 2**31

    @pytest.mark.parametrize(
        ("said", "weight"),
        [({"steps": 9}, 2.5), ({"steps": 9, "curriculum": []}, 1.0)],
        ids=["by tests", "by the user"],
    )
    async def test_the_data_of_a_training_is_weighed_by_what_tests_failed_at_unless_the_user_says_otherwise(
        self, world: World, tmp_path: Path, said: dict[str, Any], weight: float
    ) -> None:
        failed = {"kind": "sum", "difficulty": 3, "weight": 2.5}
        calls = JobCalls(world.service, roots=(), home=tmp_path, curriculum=lambda model: [failed])
        _, told = await ask(calls, "POST", "", {**TRAIN, "config": said})
        weights = read_job_config(world.job(told["id"]).spec.config).learned_from.weights
        assert weights.get((TaskKind.SUM, 3), 1.0) == weight

    @pytest.mark.parametrize("kind", ["train", "reinforce"])
    async def test_a_training_runs_our_own_trainer_with_its_config(
        self, calls: JobCalls, world: World, kind: str
    ) -> None:
        _, told = await ask(calls, "POST", "", {**TRAIN, "kind": kind})
        spec = world.job(told["id"]).spec
        assert (spec.command, spec.num_bytes) == (TRAINER, TRAINER_BYTES)
        assert json.loads(spec.config) == {"steps": 50, "kind": kind, "model": "mini"}

    @pytest.mark.parametrize(("body", "field"), BAD)
    async def test_what_is_wrong_is_refused_by_its_field(
        self, calls: JobCalls, world: World, body: dict[str, Any], field: str
    ) -> None:
        status, told = await ask(calls, "POST", "", body)
        assert (status, told["error"]["param"]) == (400, field)
        assert told["error"]["origin"] == "controller"
        assert world.service.page() == ((), None)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
    async def test_what_is_no_object_is_refused(self, calls: JobCalls, body: bytes) -> None:
        assert (await ask(calls, "POST", "", body))[0] == 400

    async def test_a_checkpoint_below_the_roots_may_be_gone_on_from_but_no_link_out_of_them(
        self, calls: JobCalls, tmp_path: Path
    ) -> None:
        inside = tmp_path / "models" / "mini" / "checkpoint-1"
        inside.mkdir(parents=True)
        assert (await ask(calls, "POST", "", {**TRAIN, "resume_from": str(inside)}))[0] == 201
        (tmp_path / "models" / "out").symlink_to(tmp_path)
        assert (await ask(calls, "POST", "", {**TRAIN, "resume_from": str(tmp_path / "models" / "out")}))[0] == 400


class TestPages:
    async def test_are_newest_first_in_pages_that_hold_each_job_once(self, calls: JobCalls) -> None:
        ids = [(await ask(calls, "POST", "", SCRIPT))[1]["id"] for _ in range(5)]
        found, token = [], ""
        while True:
            _, told = await ask(calls, "GET", "", page_size="2", page_token=token)
            found += [one["id"] for one in told["jobs"]]
            token = told["next_page_token"]
            if not token:
                break
        assert found == ids[::-1]

    async def test_are_filtered(self, calls: JobCalls, world: World) -> None:
        await ask(calls, "POST", "", SCRIPT)
        _, train = await ask(calls, "POST", "", TRAIN)
        for filters in ({"kind": "train"}, {"model": "mini"}, {"state": "queued", "kind": "train"}):
            _, told = await ask(calls, "GET", "", **filters)
            assert [one["id"] for one in told["jobs"]] == [train["id"]]
        assert (await ask(calls, "GET", "", state="failed"))[1]["jobs"] == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [({"state": "x"}, "state"), ({"page_size": "0"}, "page_size"), ({"colour": "red"}, "colour")],
    )
    async def test_with_a_wrong_filter_are_refused(self, calls: JobCalls, query: dict[str, str], field: str) -> None:
        status, told = await ask(calls, "GET", "", **query)
        assert (status, told["error"]["param"]) == (400, field)

    async def test_of_one_job_show_how_far_it_is(self, calls: JobCalls, world: World) -> None:
        _, told = await ask(calls, "POST", "", TRAIN)
        await world.round()
        world.run(told["id"]).say(saved(10), progress(12, loss=1.5))
        await world.settle()
        _, told = await ask(calls, "GET", f"/{told['id']}")
        assert (told["step"], told["num_steps"], told["metrics"]) == (12, 100, {"loss": 1.5})
        assert told["checkpoint"] == saved(10).path
        assert told["devices"] == ["node-1/gpu-0"]

    async def test_of_logs_say_where_to_go_on(self, calls: JobCalls, world: World) -> None:
        _, told = await ask(calls, "POST", "", SCRIPT)
        await world.round()
        status, part = await ask(calls, "GET", f"/{told['id']}/logs", offset="7")
        assert (status, part["offset"], part["next_offset"], part["is_over"]) == (200, 7, 12, False)

    async def test_that_do_not_exist_are_not_found(self, calls: JobCalls) -> None:
        for method, path in (("GET", "/job-9"), ("GET", "/job-9/logs"), ("POST", "/job-9/cancel"), ("GET", "/a/b/c")):
            assert (await ask(calls, method, path))[0] == 404

    async def test_that_are_asked_in_a_wrong_way_name_the_right_one(self, calls: JobCalls) -> None:
        answer = await calls.answer(ControlAsked(method="PUT", path="/v1/jobs/job-1"))
        assert (answer.status, dict(answer.headers)[b"allow"]) == (405, b"GET, DELETE")


class TestCancelling:
    @pytest.mark.parametrize("way", [("DELETE", ""), ("POST", "/cancel")])
    async def test_is_done_either_way(self, calls: JobCalls, world: World, way: tuple[str, str]) -> None:
        _, told = await ask(calls, "POST", "", SCRIPT)
        status, _ = await ask(calls, way[0], f"/{told['id']}{way[1]}")
        assert (status, world.state(told["id"])) == (202, JobState.CANCELLED)

    async def test_what_is_over_is_a_conflict(self, calls: JobCalls) -> None:
        _, told = await ask(calls, "POST", "", SCRIPT)
        await ask(calls, "DELETE", f"/{told['id']}")
        status, told = await ask(calls, "DELETE", f"/{told['id']}")
        assert (status, told["error"]["code"]) == (409, "already_over")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "leases.db")


class TestSubmitJob:
    async def test_over_grpc_takes_the_same_json(self, calls: JobCalls, world: World, bench: Bench) -> None:
        pb, _ = messages_and_services()
        handlers = Handlers(by_rpc={"SubmitJob": calls.submit_rpc})
        async with running(bench) as service, grpc_stub(service, handlers=handlers) as stub:
            answer = await stub.SubmitJob(pb.SubmitJobRequest(body=json.dumps(SCRIPT).encode()))
        assert world.state(answer.job_id) is JobState.QUEUED

    async def test_over_zeromq_too(self, calls: JobCalls, world: World, bench: Bench) -> None:
        handlers = Handlers(by_rpc={"SubmitJob": calls.submit_rpc})
        async with running(bench) as service, zeromq_socket(service, handlers) as socket:
            await socket.send(json.dumps({"rpc": "SubmitJob", "request": {"body": SCRIPT}}).encode())
            answer = json.loads(await socket.recv())
        assert world.state(answer["answer"]["job_id"]) is JobState.QUEUED

    async def test_refuses_with_the_field_s_name(self, calls: JobCalls) -> None:
        with pytest.raises(RpcError) as caught:
            await calls.submit_rpc({"body": b'{"kind": "train"}'})
        assert caught.value.code == "INVALID_ARGUMENT"
        assert "`model`" in caught.value.message
