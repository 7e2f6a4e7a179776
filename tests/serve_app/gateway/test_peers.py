"""Two gateways without Redis are one cache: each key has one owner, and an owner that is away costs no answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.engines.scripted import Behaviour
from serve_app.gateway.routing_table import Peer
from tests.serve_app.gateway.builders import SECRET, backend, chat, table
from tests.serve_app.gateway.serving import Stage, free_url, stage, two_gateways, until

TEXTS = [str(number) for number in range(12)]


def _cache(answer: httpx.Response) -> str:
    return answer.headers["x-headroom-cache"]


class TestTwoGateways:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_answer_from_one_cache(self, stream: bool) -> None:
        async with two_gateways() as (one, other):
            for text in TEXTS:
                miss = await one.chat(chat(text=text, stream=stream))
                hit = await other.chat(chat(text=text, stream=stream))
                assert (_cache(miss), _cache(hit)) == ("miss", "hit")
                assert hit.content == miss.content
            assert one.engine.counts.num_started == len(TEXTS)

    async def test_both_own_some_keys(self) -> None:
        async with two_gateways() as (one, other):
            for text in TEXTS:
                await one.chat(chat(text=text))
            counts = [sum(c.misses for c in on.gateway._meters.cache.values()) for on in (one, other)]
            assert sum(counts) == len(TEXTS)
            assert min(counts) > 0

    async def test_share_one_run_for_requests_at_both(self) -> None:
        async with two_gateways() as (one, other):
            one.engine.gate = asyncio.Event()
            asked = [asyncio.create_task(on.chat(chat())) for on in (one, other) for _ in range(5)]
            await until(lambda: sum(on.gateway._meters.cache["fast"].shared for on in (one, other)) == 9)
            one.engine.gate.set()
            assert sorted(_cache(answer) for answer in await asyncio.gather(*asked)) == ["miss", *["shared"] * 9]
            assert one.engine.counts.num_started == 1

    async def test_give_whole_figures_from_either(self) -> None:
        async with two_gateways() as (one, other):
            for text in TEXTS:
                await one.chat(chat(text=text))
                await other.chat(chat(text=text))
            pages = [(await on.http.get("/admin/cache/stats")).json() for on in (one, other)]
            assert pages[0] == pages[1]
            row = pages[0]["modes"]["fast"]
            assert (row["hits"], row["misses"], row["hit_rate"], row["entries"]) == (12, 12, 0.5, 12)
            assert (pages[0]["num_gateways"], pages[0]["num_silent"]) == (2, 0)

    async def test_pass_errors_modes_and_cache_control_on(self) -> None:
        async with two_gateways() as (one, _):
            one.engine.behaviour = Behaviour.ERROR_400
            assert {(await one.chat(chat(text=text))).status_code for text in TEXTS} == {400}
            one.engine.behaviour = Behaviour.GOOD
            answers = [await one.chat(chat("mini", text=text), x_headroom_mode="creative") for text in TEXTS]
            assert {answer.headers["x-headroom-mode"] for answer in answers} == {"creative"}
            bypassed = [await one.chat(chat(text=text), cache_control="no-cache") for text in TEXTS]
            assert {_cache(answer) for answer in bypassed} == {"bypass"}

    async def test_count_a_relayed_request_once(self) -> None:
        async with two_gateways() as (one, other):
            for text in TEXTS:
                await one.chat(chat(text=text))
            labels = ("fast", "mini", "success")
            both = [on.counted("headroom_inference_requests_total", *labels) for on in (one, other)]
            assert sum(both) == len(TEXTS)
            route = ("/v1/chat/completions", "POST", "200")
            http = [on.counted("headroom_http_requests_total", *route) for on in (one, other)]
            assert http == [len(TEXTS), 0]

    async def test_free_the_engine_when_the_client_of_a_relayed_request_leaves(self) -> None:
        async with two_gateways() as (one, _):
            one.engine.behaviour = Behaviour.HANG
            asked = [asyncio.create_task(one.chat(chat(text=text))) for text in TEXTS]
            await until(lambda: one.engine.counts.num_running == len(TEXTS))
            for ask in asked:
                ask.cancel()
            await until(lambda: one.engine.counts.num_running == 0)


class TestAnOwnerThatIsAway:
    async def test_is_answered_for_without_a_cache(self) -> None:
        async with _with_dead_peer() as on:
            kinds = {_cache(await on.chat(chat(text=text))) for text in TEXTS}
            assert kinds == {"miss", "bypass"}
            assert on.engine.counts.num_started == len(TEXTS)

    async def test_is_left_alone_for_a_while(self) -> None:
        async with _with_dead_peer() as on:
            for text in TEXTS:
                await on.chat(chat(text=text))
            assert on.gateway._peers._away_until

    async def test_that_has_another_secret_is_as_good_as_away(self) -> None:
        async with two_gateways() as (one, other):
            assert other.gateway._table is not None
            other.gateway.update(table(*other.gateway._table.backends, version=2, secret="changed"))
            assert {(await one.chat(chat(text=text))).status_code for text in TEXTS} == {200}

    async def test_is_never_asked_by_a_gateway_that_was_asked_itself(self) -> None:
        """Two gateways with different tables must not send a request to and fro."""
        async with _with_dead_peer() as on:
            kinds = {_cache(await on.chat(chat(text=text), x_headroom_internal=SECRET)) for text in TEXTS}
            assert kinds == {"miss"}

    async def test_is_counted_as_silent(self) -> None:
        async with _with_dead_peer() as on:
            page = (await on.http.get("/admin/cache/stats")).json()
            assert (page["num_gateways"], page["num_silent"]) == (1, 1)


@contextlib.asynccontextmanager
async def _with_dead_peer() -> AsyncIterator[Stage]:
    async with stage("mini") as on:
        stage_table = on.gateway._table
        assert stage_table is not None
        url = stage_table.backends[0].url
        peers = (Peer(replica="local", url=on.url), Peer(replica="dead", url=free_url()))
        on.gateway.update(table(backend("mini", url=url), peers=peers, version=2))
        yield on
