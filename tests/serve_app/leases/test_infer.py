"""Infer over gRPC and ZeroMQ: the gateway's answers, the gateway's refusals, and nothing left running behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.keys import Role
from serve_app.engines.scripted import Behaviour
from serve_app.leases.grpc_server import Tls
from serve_app.leases.infer_wire import InferRequest, Sender, gateway_request, infer_answer, infer_chunk, infer_error
from serve_app.leases.rpcs import RpcError, messages_and_services
from tests.serve_app.gateway.builders import backend, chat, table
from tests.serve_app.gateway.serving import free_url, stage, until
from tests.serve_app.gateway.test_access import NOW_S, Closed, closed
from tests.serve_app.leases.infer_ways import Ways, keyring_of, metadata, refusal, ways
from tests.serve_app.leases.serving import Bench, grpc_stub, running
from tests.serve_app.leases.test_transports import self_signed

ASKED: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "1+1"}]}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
BOTH = pytest.mark.parametrize("way", ["grpc", "json"])


@contextlib.asynccontextmanager
async def opened(folder: Path, *, num_words: int = 8, token_s: float = 0.0, **options: Any) -> AsyncIterator[Ways]:
    async with stage("mini", num_words=num_words, token_s=token_s) as one, ways(one, folder, **options) as both:
        yield both


@contextlib.asynccontextmanager
async def with_keys(folder: Path, *, tls: Tls | None = None) -> AsyncIterator[tuple[Ways, Closed]]:
    async with closed() as (one, keys), ways(one, folder, keyring=keyring_of(keys), tls=tls) as both:
        yield both, keys


class TestAnAnswer:
    @BOTH
    async def test_holds_what_the_http_address_answers(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path) as both:
            http = await both.stage.chat(chat())
            told = await getattr(both, way)(**ASKED)
            body = http.json()
            assert told["text"] == body["choices"][0]["message"]["content"]
            assert told["usage"] == {name: body["usage"][name] for name in told["usage"]}
            assert told["usage"]["completion_tokens"] > 0
            assert (told["finish_reason"], told["model"], told["mode"]) == ("stop", "mini", "fast")
            assert (told["cache"], told["weights_version"], told["checkpoint_step"]) == ("hit", "v1", 400)
            assert len(told["trace_id"]) == 32

    async def test_is_kept_in_one_cache_for_all_ways(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            states = [(await both.grpc(**ASKED))["cache"], (await both.json(**ASKED))["cache"]]
            states.append((await both.stage.chat(chat())).headers["x-headroom-cache"])
            assert states == ["miss", "hit", "hit"]
            assert both.stage.engine.counts.num_started == 1

    @BOTH
    async def test_that_is_not_to_be_stored_is_not(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path) as both:
            states = [(await getattr(both, way)(**ASKED, no_store=True))["cache"] for _ in range(2)]
            assert "hit" not in states
            assert both.stage.engine.counts.num_started == 2

    @BOTH
    async def test_with_more_than_text_comes_whole(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path) as both:
            assert not (await getattr(both, way)(**ASKED)).get("answer_json")
            told = await getattr(both, way)(**ASKED, extra_json='{"n": 3, "logprobs": true}')
            assert len(json.loads(told["answer_json"])["choices"]) == 3

    async def test_of_a_checkpoint_without_a_step_has_none(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            assert (await both.grpc(**ASKED))["fields"].HasField("checkpoint_step")
            stepless = dataclasses.replace(
                backend("mini", url=both.stage.urls["mini"], version="v2"), checkpoint_step=None
            )
            both.stage.gateway.update(table(stepless, version=2))
            assert not (await both.grpc(**ASKED))["fields"].HasField("checkpoint_step")


class TestARequest:
    @BOTH
    async def test_reaches_the_engine_with_every_field(self, tmp_path: Path, way: str) -> None:
        sampling = {"temperature": 0.25, "top_p": 0.5, "max_tokens": 5, "seed": 7, "stop": ["x", "y"]}
        penalties = {"frequency_penalty": 0.5, "presence_penalty": -0.5}
        async with opened(tmp_path) as both:
            await getattr(both, way)(**ASKED, **sampling, **penalties, extra_json='{"top_k": 3, "min_p": 0.125}')
            (sent,) = both.stage.engine.counts.bodies
            wanted = {**sampling, **penalties, "top_k": 3, "min_p": 0.125, "messages": ASKED["messages"]}
            assert {name: sent.get(name) for name in wanted} == wanted

    @BOTH
    async def test_with_a_prompt_is_a_completion(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path) as both:
            assert (await getattr(both, way)(model="mini", prompt="Once"))["text"]
            assert both.stage.engine.counts.bodies[0]["prompt"] == "Once"

    @BOTH
    async def test_may_name_its_mode_alone(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path) as both:
            told = await getattr(both, way)(mode="creative", messages=ASKED["messages"])
            assert told["mode"] == "creative"

    @BOTH
    async def test_goes_on_with_the_trace_of_its_caller(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path) as both:
            told = await getattr(both, way)(traceparent=TRACEPARENT, **ASKED)
            assert told["trace_id"] == TRACE_ID
            assert both.stage.engine.counts.headers[0]["traceparent"].split("-")[1] == TRACE_ID

    @BOTH
    async def test_goes_to_the_next_gateway_where_nobody_listens(self, tmp_path: Path, way: str) -> None:
        async with stage("mini") as one, ways(one, tmp_path, gateways=(free_url(), one.url, free_url())) as both:
            assert [(await getattr(both, way)(**ASKED))["text"] != "" for _ in range(3)] == [True] * 3

    @given(
        text=st.text(max_size=40),
        stop=st.lists(st.text(min_size=1, max_size=5), max_size=3),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        extra=st.dictionaries(st.sampled_from(["top_k", "min_p", "ignore_eos"]), st.integers(0, 9)),
    )
    def test_says_over_http_what_it_said_here_and_nothing_else(
        self, text: str, stop: list[str], seed: int | None, extra: dict[str, int]
    ) -> None:
        said = {"prompt": text, "stop": stop, "seed": seed, "model": "mini"}
        asked = InferRequest.model_validate({**said, "extra_json": json.dumps(extra)})
        sent = orjson.loads(gateway_request(asked, Sender()).body)
        assert sent == {name: value for name, value in said.items() if value is not None and value != []} | extra

    @given(key=st.text(max_size=80), traceparent=st.text(max_size=80) | st.just(TRACEPARENT))
    def test_never_passes_on_what_could_be_another_header(self, key: str, traceparent: str) -> None:
        headers = gateway_request(InferRequest(), Sender(key=key, traceparent=traceparent)).headers
        assert all(value.isascii() and value.isprintable() for value in headers.values())


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "gpt"}, "NOT_FOUND", "model_not_found"),
    ({"mode": "gentle", "model": ""}, "NOT_FOUND", "mode_not_found"),
    ({"temperature": 9.0}, "INVALID_ARGUMENT", "invalid_value"),
    ({"extra_json": '{"surprise": 1}'}, "INVALID_ARGUMENT", "unknown_parameter"),
    ({"extra_json": '{"a\\nb": 1}'}, "INVALID_ARGUMENT", "unknown_parameter"),
    ({"extra_json": '{"cache_salt": "x"}'}, "INVALID_ARGUMENT", "refused_parameter"),
    ({"messages": []}, "INVALID_ARGUMENT", "missing_required_parameter"),
    ({"weights_version": "v9"}, "FAILED_PRECONDITION", "weights_version_not_serving"),
]
"""Changed fields, gRPC status, the gateway's code."""
WRONG_HERE: list[dict[str, Any]] = [
    {"prompt": "and"},
    {"extra_json": "[]"},
    {"extra_json": "{"},
    {"extra_json": '{"stream": true}'},
    {"extra_json": '{"model": "mini"}'},
    {"extra_json": " " * 70_000},
    {"weights_version": "v1\r\nx-headroom-internal: x"},
    {"mode": "fast\n"},
    {"deadline_ms": -1},
    {"deadline_ms": 3_600_000},
]


class TestARefusal:
    async def test_is_the_gateways_own(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            for changed, status, code in WRONG:
                over_grpc = await both.grpc(**{**ASKED, **changed})
                over_json = await both.json(**{**ASKED, **changed})
                assert over_grpc["status"] == status, changed
                for told in (over_grpc["error"], over_json["error"]):
                    assert (told["code"], len(told["trace_id"])) == (code, 32), changed
                assert over_grpc["error"]["message"] == over_json["error"]["message"]
            assert both.stage.engine.counts.num_started == 0

    async def test_has_the_same_sentence_as_over_http(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            http = (await both.stage.chat(chat(temperature=9.0))).json()["error"]
            told = (await both.grpc(**ASKED, temperature=9.0))["error"]
            assert (told["message"], told["field"]) == (http["message"], http["param"])

    async def test_of_what_cannot_be_said_over_http_comes_before_the_gateway(self, tmp_path: Path) -> None:
        async with opened(tmp_path, gateways=()) as both:
            for changed in WRONG_HERE:
                assert (await both.grpc(**{**ASKED, **changed}))["status"] == "INVALID_ARGUMENT", changed
                told = await both.json(**{**ASKED, **changed})
                assert told["error"]["code"] in ("invalid_value", "malformed"), changed
            assert (await both.grpc(**ASKED, temperature=float("nan")))["status"] == "INVALID_ARGUMENT"

    async def test_of_a_failing_engine_is_no_fault_of_the_callers(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.ERROR_500
            assert (await both.grpc(**ASKED))["status"] == "INTERNAL"
            both.stage.engine.behaviour = Behaviour.DIE_BEFORE_FIRST_BYTE
            assert (await both.grpc(**ASKED))["status"] == "UNAVAILABLE"

    @BOTH
    async def test_says_when_no_gateway_answers(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path, gateways=(free_url(),)) as both:
            told = (await getattr(both, way)(**ASKED))["error"]
            assert (told["code"], told["retry_after_ms"] > 0) == ("no_gateway", True)

    async def test_of_a_server_without_models_says_so(self, tmp_path: Path) -> None:
        async with running(Bench(ledger=tmp_path / "leases.db")) as service, grpc_stub(service) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Infer(_request())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestAKey:
    async def test_is_asked_for(self, tmp_path: Path) -> None:
        async with with_keys(tmp_path) as (both, keys):
            wrong = keys.root[:-1] + ("A" if keys.root[-1] != "A" else "B")
            for key, status, code in (
                (None, "UNAUTHENTICATED", "invalid_api_key"),
                (wrong, "UNAUTHENTICATED", "invalid_api_key"),
                (keys.key(Role.LEASES), "PERMISSION_DENIED", "role_missing"),
            ):
                assert (await both.grpc(key=key, **ASKED))["status"] == status
                assert (await both.json(key=key, **ASKED))["error"]["code"] == code
            assert both.stage.engine.counts.num_started == 0

    @BOTH
    async def test_goes_with_the_request_to_the_gateway(self, tmp_path: Path, way: str) -> None:
        async with with_keys(tmp_path) as (both, keys):
            assert (await getattr(both, way)(key=keys.key(Role.INFERENCE), **ASKED))["text"]
            small = keys.key(Role.INFERENCE, models=frozenset({"small"}))
            told = await getattr(both, way)(key=small, **{**ASKED, "model": "mini"})
            assert told["error"]["code"] == "model_not_allowed"
            assert told.get("status") in (None, "PERMISSION_DENIED")

    @BOTH
    async def test_that_asks_too_often_is_told_when_to_come_again(self, tmp_path: Path, way: str) -> None:
        async with with_keys(tmp_path) as (both, keys):
            key = keys.key(Role.INFERENCE, requests_per_min=1)
            assert (await getattr(both, way)(key=key, **ASKED))["text"]
            told = await getattr(both, way)(key=key, **ASKED)
            assert (told["error"]["code"], told["error"]["retry_after_ms"] >= 1000) == ("rate_limit_exceeded", True)
            assert told.get("status") in (None, "RESOURCE_EXHAUSTED")

    async def test_does_not_see_what_another_tenants_key_has_stored(self, tmp_path: Path) -> None:
        async with with_keys(tmp_path) as (both, keys):
            tenants = ("acme", "acme", "umbrella")
            told = [await both.grpc(key=keys.key(Role.INFERENCE, tenant=tenant), **ASKED) for tenant in tenants]
            assert [one["cache"] for one in told] == ["miss", "hit", "miss"]

    async def test_revoked_during_a_call_ends_with_it(self, tmp_path: Path) -> None:
        async with with_keys(tmp_path) as (both, keys):
            both.stage.engine.gate = asyncio.Event()
            key = keys.key(Role.INFERENCE)
            under_way = asyncio.ensure_future(both.grpc(key=key, **ASKED))
            await until(lambda: both.stage.engine.counts.num_running == 1)
            keys.store.revoke(key.split("_")[1], by=keys.root_id, now_s=NOW_S)  # no gateway has heard of it yet
            assert (await both.grpc(key=key, **ASKED))["status"] == "UNAUTHENTICATED"
            assert (await both.json(key=key, **ASKED))["error"]["code"] == "invalid_api_key"
            both.stage.engine.gate.set()
            assert (await under_way)["text"]

    async def test_and_the_answer_go_over_tls(self, tmp_path: Path) -> None:
        async with with_keys(tmp_path, tls=self_signed(tmp_path)) as (both, keys):
            key = keys.key(Role.INFERENCE)
            assert (await both.grpc(key=key, **ASKED))["text"]
            assert (await both.grpc(**ASKED))["status"] == "UNAUTHENTICATED"
            assert [chunk async for chunk in both.stub.InferStream(_request(), metadata=metadata(key))]


class TestTheEnd:
    @BOTH
    async def test_of_the_time_asked_for_ends_the_run(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.HANG
            told = await getattr(both, way)(**ASKED, deadline_ms=1000)
            assert (told["error"]["code"], told.get("status")) == (
                "deadline_exceeded",
                "DEADLINE_EXCEEDED" if way == "grpc" else None,
            )
            await _nothing_runs(both)

    async def test_of_grpcs_own_deadline_ends_the_run(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.HANG
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await both.stub.Infer(_request(), timeout=1.0)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await _nothing_runs(both)

    @pytest.mark.parametrize("rpc", ["Infer", "InferStream"])
    async def test_of_a_caller_that_leaves_ends_the_run(self, tmp_path: Path, rpc: str) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.HANG
            call = getattr(both.stub, rpc)(_request())
            waiting = asyncio.ensure_future(call if rpc == "Infer" else call.read())
            await until(lambda: both.stage.engine.counts.num_running == 1)
            call.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await _nothing_runs(both)

    @pytest.mark.slow
    async def test_of_a_thousand_callers_that_leave_leaves_nothing_behind(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.HANG
            for number in range(1000):
                call = (both.stub.InferStream if number % 2 else both.stub.Infer)(_request(seed=number))
                waiting = asyncio.ensure_future(call.read() if number % 2 else call)
                await until(lambda: both.stage.engine.counts.num_running == 1)
                call.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await _nothing_runs(both)
            assert both.stage.engine.counts.num_aborted == 1000

    async def test_of_the_server_ends_what_zeromq_asked_for(self, tmp_path: Path) -> None:
        async with stage("mini") as one:
            one.engine.behaviour = Behaviour.HANG
            async with ways(one, tmp_path) as both:
                await both.send("Infer", ASKED)
                await until(lambda: one.engine.counts.num_running == 1)
            await _nothing_runs(both)


class TestRoom:
    async def test_is_left_for_others_while_an_infer_runs(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.gate = asyncio.Event()
            await both.send("Infer", ASKED)
            await until(lambda: both.stage.engine.counts.num_running == 1)
            await both.send("GetHealth", {})
            assert (await both.receive())["answer"]["status"] == "ok"
            both.stage.engine.gate.set()
            assert (await both.receive())["answer"]["text"]

    @BOTH
    async def test_is_bounded_over_both_ways_and_who_finds_none_is_told_at_once(self, tmp_path: Path, way: str) -> None:
        async with opened(tmp_path, max_calls=1) as both:
            both.stage.engine.gate = asyncio.Event()
            first = asyncio.ensure_future(both.grpc(**ASKED))
            await until(lambda: both.inference.num_calls == 1)
            told = await getattr(both, way)(**ASKED)
            assert (told["error"]["code"], told["error"]["retry_after_ms"]) == ("too_many_calls", 1000)
            assert told.get("status") in (None, "RESOURCE_EXHAUSTED")
            both.stage.engine.gate.set()
            assert (await first)["text"]
            assert (await getattr(both, way)(**ASKED))["text"]


class TestAStream:
    async def test_tells_who_answers_first_and_what_it_cost_last(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            whole = await both.grpc(**ASKED, no_store=True)
            chunks = [chunk async for chunk in both.stub.InferStream(_request())]
            assert len(chunks) > 2
            assert "".join(chunk.text for chunk in chunks) == whole["text"]
            assert (chunks[0].model, chunks[0].mode, chunks[0].weights_version) == ("mini", "fast", "v1")
            assert {chunk.model for chunk in chunks[1:]} == {""}
            assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
            assert chunks[-1].usage.completion_tokens == whole["usage"]["completion_tokens"]

    async def test_comes_as_it_is_made(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.HANG_MIDWAY
            call = both.stub.InferStream(_request())
            assert (await call.read()).model == "mini"
            assert both.stage.engine.counts.num_running == 1
            call.cancel()
            await _nothing_runs(both)

    async def test_that_breaks_off_is_no_whole_answer(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.DIE_AFTER_FIRST_BYTE
            chunks = aiter(both.stub.InferStream(_request()))
            first = await anext(chunks)
            assert (first.text != "", first.finish_reason) == (True, "")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                assert not [chunk.finish_reason async for chunk in chunks if chunk.finish_reason]
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    async def test_is_refused_like_any_answer(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await both.stub.InferStream(_request(model="gpt")).read()
            assert (caught.value.code().name, refusal(caught.value)["error"]["code"]) == (
                "NOT_FOUND",
                "model_not_found",
            )

    async def test_with_more_than_text_has_the_choice_whole(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            chunks = [chunk async for chunk in both.stub.InferStream(_request(extra_json='{"n": 2}'))]
            assert {chunk.choice for chunk in chunks} == {0, 1}

    async def test_has_a_deadline_too(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as both:
            both.stage.engine.behaviour = Behaviour.HANG_MIDWAY
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [chunk async for chunk in both.stub.InferStream(_request(deadline_ms=1000))]
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await _nothing_runs(both)


class TestErrors:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 431, 500, 502, 503, 504])
    def test_every_status_of_the_gateway_has_one_of_grpc(self, status: int) -> None:
        error = infer_error(status, {"retry-after": "2"}, b"no JSON")
        assert (hasattr(grpc.StatusCode, error.code), error.retry_after_ms) == (True, 2000)
        assert error.code != "UNKNOWN"
        assert str(status) in error.message

    def test_of_no_completion_is_the_servers(self) -> None:
        for body in (b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [5]}'):
            with pytest.raises(RpcError, match="no completion"):
                infer_answer({}, body)
        with pytest.raises(RpcError, match="no completion"):
            infer_chunk(b"data: {]\n\n")


def _request(**changed: Any) -> Any:
    pb, _ = messages_and_services()
    return pb.InferRequest(**{**ASKED, **changed})


async def _nothing_runs(both: Ways) -> None:
    """Whatever began was aborted: nothing of it has ended by itself."""
    counts = both.stage.engine.counts
    await until(lambda: both.inference.num_calls == 0 and counts.num_running == 0)
    assert (counts.num_finished, counts.num_aborted) == (0, counts.num_started)
