"""Engines that die, hang or lie, clients that leave, send too much or too slowly: every case ends well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from serve_app.engines.protocol import Endpoint
from serve_app.engines.scripted import WRONG_VERSION, Behaviour
from serve_app.engines.scripted_answers import unary_answer
from serve_app.gateway.loads import RETRY_RATIO, RETRY_RESERVE, RetryBudget
from tests.serve_app.gateway.builders import backend, chat, settings
from tests.serve_app.gateway.serving import Stage, free_url, stage, until

IMPATIENT = settings(first_token_timeout_s=0.2, between_tokens_timeout_s=0.2)


def _error(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = orjson.loads(body)["error"]
    return error


def _events(body: bytes) -> list[bytes]:
    return [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]


@contextlib.asynccontextmanager
async def _cutting_server() -> AsyncIterator[str]:
    """Accepts, reads, and closes without a word: a replica that dies with the request in its hands."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class TestAReplicaLostBeforeTheFirstByte:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_that_refuses_connections_is_replaced_unseen(self, stream: bool) -> None:
        dead = backend("mini", url=free_url(), number=99)
        async with stage("mini", dead=(dead,)) as on:
            answers = [await on.chat(chat(text=str(number), stream=stream)) for number in range(6)]
            assert {answer.status_code for answer in answers} == {200}

    @pytest.mark.parametrize("stream", [False, True])
    async def test_that_cuts_the_connection_is_replaced_unseen(self, stream: bool) -> None:
        async with _cutting_server() as url:
            dead = backend("mini", url=url, number=99)
            async with stage("mini", dead=(dead,)) as on:
                answers = [await on.chat(chat(text=str(number), stream=stream)) for number in range(6)]
                assert {answer.status_code for answer in answers} == {200}

    @pytest.mark.parametrize("behaviour", [Behaviour.DIE_BEFORE_FIRST_BYTE, Behaviour.ERROR_503])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_is_replaced_once_and_by_the_same_model(self, behaviour: Behaviour, stream: bool) -> None:
        async with stage("mini", "mini", "mini", "small") as on:
            for engine in on.engines[:3]:
                engine.behaviour = behaviour
            answer = await on.chat(chat("fast", stream=stream))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert _error(answer.content)["code"] == "engine_unavailable"
            assert sum(engine.counts.num_started for engine in on.engines[:3]) == 2
            assert on.engines[3].counts.num_started == 0

    async def test_that_ends_a_stream_before_its_first_event_is_replaced_unseen(self) -> None:
        async with stage("mini", "mini") as on:
            on.engine.behaviour = Behaviour.EMPTY
            answers = [await on.chat(chat(text=str(number), stream=True)) for number in range(6)]
            assert on.engine.counts.num_started > 0
            assert {(answer.status_code, answer.content[-8:]) for answer in answers} == {(200, b"[DONE]\n\n")}

    async def test_without_another_is_503_and_never_an_empty_answer(self) -> None:
        async with stage(dead=(backend("mini", url=free_url()),)) as on:
            answer = await on.chat(chat("fast"))
            assert (answer.status_code, answer.headers["x-headroom-model"]) == (503, "mini")

    async def test_is_asked_last_for_a_while(self) -> None:
        dead = backend("mini", url=free_url(), number=99)
        async with stage("mini", dead=(dead,)) as on:
            for number in range(10):
                await on.chat(chat(text=str(number)))
            assert on.gateway._board._engines.retries._tokens > RETRY_RESERVE - 3

    async def test_that_closed_an_idle_connection_is_not_at_fault(self) -> None:
        answer = orjson.dumps(unary_answer(Endpoint.CHAT, "mini", {}, ["x"]))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Answers the first request on a connection; closes it when the second comes, as a timed-out one would."""
            await reader.readuntil(b"}]")
            writer.write(head + answer)
            await reader.readuntil(b"POST")
            writer.close()

        server = await asyncio.start_server(once, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with stage(dead=(backend("mini", url=url),)) as on:
                answers = [await on.chat(chat(text=text)) for text in ("1", "2", "3")]
                assert {answer.status_code for answer in answers} == {200}

    async def test_is_retried_for_a_fifth_of_requests_at_most(self) -> None:
        budget = RetryBudget()
        retried = 0
        for _ in range(1000):
            budget.earn()
            retried += budget.spend()
        assert retried <= 1000 * RETRY_RATIO + RETRY_RESERVE


class TestAReplicaLostMidway:
    async def test_ends_the_stream_with_an_error_event_and_no_end_mark(self) -> None:
        async with stage("mini", "mini") as on:
            for engine in on.engines:
                engine.behaviour = Behaviour.DIE_AFTER_FIRST_BYTE
            answer = await on.chat(chat(stream=True))
            *good, last = _events(answer.content)
            assert answer.status_code == 200
            assert all(orjson.loads(event)["choices"] for event in good)
            assert good
            assert _error(last)["code"] == "engine_died"
            assert b"[DONE]" not in answer.content
            assert sum(engine.counts.num_started for engine in on.engines) == 1, "no text twice"

    async def test_of_a_whole_answer_is_replaced_since_nothing_was_sent(self) -> None:
        async with stage("mini", "mini") as on:
            on.engines[0].behaviour = on.engines[1].behaviour = Behaviour.DIE_AFTER_FIRST_BYTE
            first = asyncio.create_task(on.chat(chat()))
            await until(lambda: sum(engine.counts.num_started for engine in on.engines) == 2)
            assert (await first).status_code == 503

    async def test_is_told_to_every_follower(self) -> None:
        async with stage("mini") as on:
            on.engine.behaviour, on.engine.gate = Behaviour.DIE_AFTER_FIRST_BYTE, asyncio.Event()
            asked = [asyncio.create_task(on.chat(chat(stream=True))) for _ in range(3)]
            await until(lambda: on.gateway._meters.cache["fast"].shared == 2)
            on.engine.gate.set()
            assert len({answer.content for answer in await asyncio.gather(*asked)}) == 1

    async def test_without_the_end_mark_is_not_passed_off_as_whole(self) -> None:
        async with stage("mini") as on:
            on.engine.behaviour = Behaviour.NO_DONE
            answer = await on.chat(chat(stream=True))
            assert _error(_events(answer.content)[-1])["code"] == "engine_died"


class TestAnEngineThatIsSilent:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_from_the_start_is_504_and_loses_its_run(self, stream: bool) -> None:
        async with stage("mini", of=IMPATIENT) as on:
            on.engine.behaviour = Behaviour.HANG
            answer = await on.chat(chat(stream=stream))
            assert (answer.status_code, _error(answer.content)["code"]) == (504, "first_token_timeout")
            await until(lambda: on.engine.counts.num_aborted == 1)
            assert on.counted("headroom_inference_requests_total", "fast", "mini", "timeout") == 1

    async def test_midway_ends_with_an_error_event_and_loses_its_run(self) -> None:
        async with stage("mini", of=IMPATIENT) as on:
            on.engine.behaviour = Behaviour.HANG_MIDWAY
            answer = await on.chat(chat(stream=True))
            assert _error(_events(answer.content)[-1])["code"] == "between_tokens_timeout"
            await until(lambda: on.engine.counts.num_aborted == 1)

    async def test_between_tokens_for_less_than_the_limit_is_left_alone(self) -> None:
        of = settings(first_token_timeout_s=0.8, between_tokens_timeout_s=0.8)
        async with stage("mini", of=of, num_words=5, token_s=0.25) as on:
            assert (await on.chat(chat(stream=True))).text.endswith("data: [DONE]\n\n")


class TestAnEngineThatLies:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_with_garbage_is_502(self, stream: bool) -> None:
        async with stage("mini") as on:
            on.engine.behaviour = Behaviour.GARBAGE
            answer = await on.chat(chat(stream=stream))
            assert (answer.status_code, _error(answer.content)["origin"]) == (502, "engine")

    async def test_about_its_weights_is_named_honestly_and_not_stored(self) -> None:
        async with stage("mini") as on:
            on.engine.behaviour = Behaviour.WRONG_WEIGHTS_VERSION
            answer = await on.chat(chat())
            assert answer.headers["x-headroom-weights-version"] == WRONG_VERSION
            assert (await on.cache_row())["entries"] == 0

    async def test_about_the_secret_is_never_the_callers_fault(self) -> None:
        async with stage("mini") as on:
            on.engine._secret = b"another"
            assert (await on.chat(chat())).status_code == 502

    async def test_by_speaking_no_http_is_replaced(self) -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"!!!! this is no HTTP\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with stage("mini", dead=(backend("mini", url=url, number=9),)) as on:
                answers = [await on.chat(chat(text=str(number))) for number in range(4)]
                assert {answer.status_code for answer in answers} == {200}


class TestAClientThatLeaves:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_frees_the_engine_before_any_answer(self, stream: bool) -> None:
        async with stage("mini") as on:
            on.engine.behaviour = Behaviour.HANG
            asked = asyncio.create_task(on.chat(chat("mini", stream=stream)))
            await until(lambda: on.engine.counts.num_running == 1)
            asked.cancel()
            await until(lambda: on.engine.counts.num_running == 0)
            assert on.engine.counts.num_aborted == 1
            await until(lambda: on.counted("headroom_inference_requests_total", "none", "mini", "cancelled") == 1)

    async def test_frees_the_engine_midway(self) -> None:
        async with stage("mini", num_words=200, token_s=0.01) as on:
            body = chat("mini", stream=True, max_tokens=200)
            async with on.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                await anext(answer.aiter_bytes())
            await until(lambda: on.engine.counts.num_aborted == 1)

    async def test_leaves_nothing_behind_after_many_times(self) -> None:
        async with stage("mini") as on:
            on.engine.behaviour = Behaviour.HANG
            for _ in range(3):
                asked = [asyncio.create_task(on.chat(chat(text=str(number % 7)))) for number in range(50)]
                await until(lambda: on.engine.counts.num_running == 7)
                for one in asked:
                    one.cancel()
                await until(lambda: on.engine.counts.num_running == 0)
            await until(lambda: on.gateway._board._engines.loads.num_in_flight == 0)
            assert on.gateway._board._flights == {}
            assert on.gateway._board._engines.loads.in_flight == {}

    async def test_is_not_asked_for_twice_when_it_never_sent_its_body(self) -> None:
        async with stage("mini") as on:
            host, port = on.url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            await writer.drain()
            writer.close()
            await until(lambda: on.counted("headroom_inference_requests_total", "none", "none", "cancelled") == 1)
            assert on.engine.counts.num_started == 0


class TestABody:
    async def test_that_is_too_large_is_413_whether_it_says_so_or_not(self) -> None:
        async with stage("mini") as on:
            large = b"x" * (64 * 1024 + 1)

            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, len(large), 1000):
                    yield large[start : start + 1000]

            said = await on.http.post("/v1/chat/completions", content=large)
            unsaid = await on.http.post("/v1/chat/completions", content=pieces())
            assert (said.status_code, unsaid.status_code) == (413, 413)
            assert _error(said.content)["code"] == "body_too_large"

    async def test_that_does_not_come_is_408(self) -> None:
        async with stage("mini") as on:
            on.gateway._inference._bodies._timeout_s = 0.05
            host, port = on.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()

    async def test_of_any_content_type_is_read_as_json(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.post(
                "/v1/chat/completions", content=orjson.dumps(chat()), headers={"content-type": "text/plain"}
            )
            assert answer.status_code == 200

    async def test_that_is_refused_reaches_no_engine(self) -> None:
        async with stage("mini") as on:
            assert (await on.chat(chat(chat_template="{{ x }}"))).status_code == 400
            assert on.engine.counts.num_started == 0


class TestTheInternalSecret:
    async def test_of_somebody_else_is_403(self) -> None:
        async with stage("mini") as on:
            assert (await on.chat(chat(), x_headroom_internal="guess")).status_code == 403

    async def test_is_needed_by_every_engine(self) -> None:
        async with stage("mini") as on, _client_of(on) as direct:
            assert (await direct.post("/v1/chat/completions", json=chat("mini"))).status_code == 403


@contextlib.asynccontextmanager
async def _client_of(on: Stage) -> AsyncIterator[Any]:
    import httpx

    assert on.gateway._table is not None
    async with httpx.AsyncClient(base_url=on.gateway._table.backends[0].url) as client:
        yield client
