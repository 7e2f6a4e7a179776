"""Requests that say two things at once, and keys that end while they are used."""

from __future__ import annotations

import asyncio

import pytest

from tests.serve_app.gateway.builders import chat
from tests.serve_app.gateway.serving import stage, until
from tests.serve_app.gateway.test_access import bearer, closed
from tests.serve_app.gateway.test_attacks import DANGEROUS

_BODY = b'{"model": "mini", "messages": [{"role": "user", "content": "hi"}]}'
_INNER = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


class TestTwoHeaders:
    @pytest.mark.parametrize("name", ["x-headroom-mode", "x-headroom-weights-version", "x-headroom-downshift"])
    async def test_that_differ_are_refused_by_their_name_before_any_engine(self, name: str) -> None:
        async with stage("mini") as on:
            sent = [("content-type", "application/json"), (name, "yes"), (name, "no")]
            answer = await on.http.post("/v1/chat/completions", json=chat(), headers=sent)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
            assert on.engine.counts.num_started == 0

    async def test_of_authorization_are_no_key_even_where_they_are_equal(self) -> None:
        async with closed() as (on, keys):
            key = f"Bearer {keys.key()}"
            for second in (key, "Bearer hr_other"):
                sent = [("content-type", "application/json"), ("authorization", key), ("authorization", second)]
                answer = await on.http.post("/v1/chat/completions", json=chat(), headers=sent)
                assert (answer.status_code, on.engine.counts.num_started) == (401, 0)

    @pytest.mark.parametrize("chunked", ["chunked", "identity, chunked", "gzip, chunked"])
    async def test_of_length_and_chunks_are_no_request_and_hide_none(self, chunked: str) -> None:
        """Whoever stands before us may have read the other one: the two ends would see different requests."""
        async with stage("mini") as on:
            host, port = on.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(_BODY)}\r\n"
            writer.write(f"{head}transfer-encoding: {chunked}\r\n\r\n".encode() + b"0\r\n\r\n" + _INNER)
            told = await reader.read()
            assert told.startswith(b"HTTP/1.1 400")
            assert told.count(b"HTTP/1.1") == 1
            assert on.engine.counts.num_started == 0
            writer.close()


class TestAModeByHeader:
    async def test_and_another_by_model_name_is_refused_and_both_are_named(self) -> None:
        async with stage("mini") as on:
            answer = await on.chat(chat("fast"), x_headroom_mode="creative")
            error = answer.json()["error"]
            assert answer.status_code == 400
            assert all(mode in error["message"] for mode in ("fast", "creative"))
            assert on.engine.counts.num_started == 0

    async def test_and_the_same_by_model_name_is_fine(self) -> None:
        async with stage("mini") as on:
            assert (await on.chat(chat("fast"), x_headroom_mode="fast")).status_code == 200

    async def test_that_nobody_knows_names_those_there_are(self) -> None:
        async with stage("mini") as on:
            answer = await on.chat(chat("mini"), x_headroom_mode="quick")
            assert (answer.status_code, answer.json()["error"]["param"]) == (404, "x-headroom-mode")
            assert "fast, balanced, creative" in answer.json()["error"]["message"]


class TestADangerousField:
    async def test_reaches_no_engine_by_either_endpoint(self) -> None:
        async with stage("mini") as on:
            for name, value, param in DANGEROUS:
                sent = min(value, 2**63) if isinstance(value, int) else value
                answer = await on.chat(chat() | {name: sent})
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), name
                if name != "messages":
                    body = {"model": "mini", "prompt": "hi", name: sent}
                    assert (await on.http.post("/v1/completions", json=body)).status_code == 400, name
            assert on.engine.counts.num_started == 0

    async def test_of_the_caller_is_never_the_request_id_or_salt_of_the_engine(self) -> None:
        async with closed() as (on, keys):
            odd = {**bearer(keys.key()), "x-request-id": "a b; drop", "x-headroom-internal-salt": "mine"}
            assert (await on.chat(chat(), **odd)).status_code == 200
            (headers,), (body,) = on.engine.counts.headers, on.engine.counts.bodies
            assert headers["x-request-id"] != "a b; drop"
            assert "mine" not in (*headers.values(), body["cache_salt"])


class TestAKeyThatIsRevokedMidstream:
    async def test_ends_no_answer_under_way_and_begins_none(self) -> None:
        """What was begun rightly is finished: it is bounded by its own length. The next request is refused."""
        async with closed(num_words=200, token_s=0.005) as (on, keys):
            key = keys.key()
            sent = {"json": chat(stream=True), "headers": bearer(key)}
            async with on.http.stream("POST", "/v1/chat/completions", **sent) as answer:  # type: ignore[arg-type]  # by key
                lines = answer.aiter_lines()
                assert (await anext(lines)).startswith("data: ")
                keys.store.revoke(key.split("_")[1], by=keys.root_id, now_s=1.0)
                keys.publish()
                assert (await on.chat(chat(), **bearer(key))).status_code == 401
                rest = [line async for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            await until(lambda: on.engine.counts.num_running == 0)
            assert on.engine.counts.num_aborted == 0
