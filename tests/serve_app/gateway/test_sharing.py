"""Cache and single flight over real sockets: equal requests cost one run, and nobody can tell but by the header."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from serve_app.engines.scripted import Behaviour
from serve_app.gateway.cache import Entry, MemoryStore
from tests.serve_app.gateway.builders import backend, chat, settings, table
from tests.serve_app.gateway.serving import Stage, stage, until
from tests.serve_app.gateway.test_cache import Clock


def _cache(answer: httpx.Response) -> str:
    return answer.headers["x-headroom-cache"]


class TestAHit:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_equals_its_miss_byte_for_byte(self, stream: bool) -> None:
        async with stage("mini") as on:
            miss, hit = await on.chat(chat(stream=stream)), await on.chat(chat(stream=stream))
            assert (_cache(miss), _cache(hit)) == ("miss", "hit")
            assert hit.content == miss.content
            assert hit.headers["content-type"] == miss.headers["content-type"]
            assert on.engine.counts.num_started == 1

    async def test_has_a_trace_and_a_request_id_of_its_own(self) -> None:
        async with stage("mini") as on:
            miss, hit = await on.chat(chat()), await on.chat(chat())
            assert hit.headers["x-trace-id"] != miss.headers["x-trace-id"]
            assert hit.headers["x-request-id"] != miss.headers["x-request-id"]

    async def test_needs_no_engine(self) -> None:
        async with stage("mini") as on:
            await on.chat(chat())
            on.engine.behaviour = Behaviour.HANG
            assert _cache(await on.chat(chat())) == "hit"

    async def test_dies_with_the_modes_time_to_live(self) -> None:
        clock = Clock()
        store = MemoryStore(max_bytes=1024 * 1024, clock=clock)
        async with stage("mini", store=store) as on:
            await on.chat(chat())
            clock.now_s += 299
            assert _cache(await on.chat(chat())) == "hit"
            clock.now_s += 1
            assert _cache(await on.chat(chat())) == "miss"

    async def test_never_outlives_the_weights_it_came_from(self) -> None:
        async with stage("mini") as on:
            await on.chat(chat())
            (old,) = on.gateway._table.backends if on.gateway._table else ()
            on.gateway.update(table(backend("mini", url=old.url, version="v2"), version=2))
            fresh = await on.chat(chat())
            assert (_cache(fresh), fresh.headers["x-headroom-weights-version"]) == ("miss", "v2")

    @given(
        first=st.fixed_dictionaries({}, optional={"temperature": st.sampled_from([0, 0.5]), "n": st.integers(1, 2)}),
        second=st.fixed_dictionaries({}, optional={"temperature": st.sampled_from([0, 0.5]), "n": st.integers(1, 2)}),
        texts=st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["a", "b"])),
        modes=st.tuples(st.sampled_from(["fast", "creative"]), st.sampled_from(["fast", "creative"])),
        streams=st.tuples(st.booleans(), st.booleans()),
    )
    @hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    async def test_is_given_only_to_a_request_with_the_same_effect(
        self,
        first: dict[str, Any],
        second: dict[str, Any],
        texts: tuple[str, str],
        modes: tuple[str, str],
        streams: tuple[bool, bool],
    ) -> None:
        one = chat(modes[0], texts[0], stream=streams[0], **first)
        other = chat(modes[1], texts[1], stream=streams[1], **second)
        async with stage("mini") as on:
            await on.chat(one)
            hit = _cache(await on.chat(other)) == "hit"
            sent = on.engine.counts.bodies
            assert hit == (len(sent) == 1)
            if not hit:
                assert sent[0] != sent[1] or modes[0] != modes[1]


class TestNothingButAWholeGoodAnswer:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("behaviour", [one for one in Behaviour if one not in {Behaviour.GOOD, Behaviour.HANG}])
    async def test_is_stored(self, behaviour: Behaviour, stream: bool) -> None:
        of = settings(first_token_timeout_s=0.3, between_tokens_timeout_s=0.3)
        async with stage("mini", of=of) as on:
            on.engine.behaviour = behaviour
            if behaviour is Behaviour.SLOW_FIRST_TOKEN:
                on.engine.first_token_s = 1.0
            bad = await on.chat(chat(stream=stream))
            row = await on.cache_row()
            only_streams = {Behaviour.HANG_MIDWAY, Behaviour.EMPTY, Behaviour.NO_DONE, Behaviour.ERROR_EVENT}
            good_enough = behaviour in only_streams and not stream
            assert row["entries"] == (1 if good_enough else 0), bad.text
            on.engine.behaviour, on.engine.first_token_s = Behaviour.GOOD, 0.0
            assert _cache(await on.chat(chat(stream=stream))) == ("hit" if good_enough else "miss")

    async def test_is_stored_of_a_stream_whose_client_left(self) -> None:
        async with stage("mini", token_s=0.02) as on:
            await _leave_after_first_event(on, chat(stream=True))
            await until(lambda: on.engine.counts.num_aborted == 1)
            assert (await on.cache_row())["entries"] == 0


class TestCacheControl:
    async def test_no_store_neither_reads_nor_stores(self) -> None:
        async with stage("mini") as on:
            assert _cache(await on.chat(chat(), cache_control="no-store")) == "bypass"
            assert _cache(await on.chat(chat())) == "miss"
            assert _cache(await on.chat(chat(), cache_control="max-age=0, No-Store")) == "bypass"

    async def test_no_cache_does_not_read_but_stores(self) -> None:
        async with stage("mini") as on:
            assert _cache(await on.chat(chat(), cache_control="no-cache")) == "bypass"
            assert _cache(await on.chat(chat())) == "hit"
            assert _cache(await on.chat(chat(), cache_control="no-cache")) == "bypass"

    async def test_a_model_named_alone_has_no_cache(self) -> None:
        async with stage("mini") as on:
            answers = [await on.chat(chat("mini")) for _ in range(2)]
            assert [_cache(answer) for answer in answers] == ["bypass", "bypass"]


class TestOneFlight:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_answers_500_equal_requests_with_one_run(self, stream: bool) -> None:
        async with stage("mini") as on:
            on.engine.gate = asyncio.Event()
            asked = [asyncio.create_task(on.chat_alone(chat(stream=stream))) for _ in range(500)]
            await until(lambda: on.gateway._meters.cache["fast"].shared == 499)
            on.engine.gate.set()
            answers = await asyncio.gather(*asked)
            assert on.engine.counts.num_started == 1
            assert len({content for _, content in answers}) == 1
            kinds = [state for state, _ in answers]
            assert (kinds.count("miss"), kinds.count("shared")) == (1, 499)

    async def test_gives_followers_of_a_stream_all_events_live(self) -> None:
        async with stage("mini", num_words=12, token_s=0.01) as on, contextlib.AsyncExitStack() as stack:
            leader = await stack.enter_async_context(_streaming(on, chat(stream=True)))
            lines = leader.aiter_bytes()
            begun = await anext(lines)
            follower = await stack.enter_async_context(_streaming(on, chat(stream=True)))
            assert _cache(follower) == "shared"
            first = await anext(follower.aiter_bytes())
            assert on.engine.counts.num_running == 1, "the follower reads while the run goes on"
            assert first.startswith(begun)

    async def test_goes_on_for_followers_when_its_leader_leaves(self) -> None:
        async with stage("mini", num_words=20, token_s=0.01) as on:
            async with _streaming(on, chat(stream=True)) as leader:
                await anext(leader.aiter_bytes())
                follower = asyncio.create_task(on.chat(chat(stream=True)))
                await until(lambda: on.gateway._meters.cache["fast"].shared == 1)
            answer = await follower
            assert answer.text.endswith("data: [DONE]\n\n")
            assert (on.engine.counts.num_started, on.engine.counts.num_aborted) == (1, 0)

    async def test_ends_at_once_when_nobody_waits_any_more(self) -> None:
        async with stage("mini") as on:
            on.engine.gate = asyncio.Event()
            asked = [asyncio.create_task(on.chat(chat())) for _ in range(5)]
            await until(lambda: on.gateway._meters.cache["fast"].shared == 4)
            for one in asked:
                one.cancel()
            await until(lambda: on.engine.counts.num_aborted == 1)
            await until(lambda: on.engine.counts.num_running == 0)

    async def test_can_be_joined_until_its_answer_is_stored(self) -> None:
        class SlowStore(MemoryStore):
            def __init__(self) -> None:
                super().__init__(max_bytes=1024 * 1024, clock=Clock())
                self.may_store = asyncio.Event()

            async def put(self, key: bytes, entry: Entry, *, ttl_s: float) -> None:
                await self.may_store.wait()
                await super().put(key, entry, ttl_s=ttl_s)

        store = SlowStore()
        async with stage("mini", store=store) as on:
            kinds = [_cache(await on.chat(chat())) for _ in range(2)]
            store.may_store.set()
            await until(lambda: store.num_bytes > 0)
            kinds.append(_cache(await on.chat(chat())))
            assert kinds == ["miss", "shared", "hit"]
            assert on.engine.counts.num_started == 1

    async def test_gives_the_same_refusal_to_all_who_wait(self) -> None:
        async with stage("mini") as on:
            on.engine.behaviour, on.engine.gate = Behaviour.ERROR_500, asyncio.Event()
            asked = [asyncio.create_task(on.chat(chat())) for _ in range(5)]
            await until(lambda: on.gateway._meters.cache["fast"].shared == 4)
            on.engine.gate.set()
            assert {answer.status_code for answer in await asyncio.gather(*asked)} == {500}
            on.engine.behaviour = Behaviour.GOOD
            assert (await on.chat(chat())).status_code == 200


class TestCacheFigures:
    async def test_count_each_mode_by_itself_and_agree_with_the_metrics(self) -> None:
        async with stage("mini") as on:
            for _ in range(4):
                await on.chat(chat())
            await on.chat(chat("creative"))
            await on.chat(chat("mini"))
            row = await on.cache_row()
            assert (row["hits"], row["misses"], row["hit_rate"], row["entries"]) == (3, 1, 0.75, 1)
            assert (await on.cache_row("creative"))["misses"] == 1
            assert (await on.cache_row("none"))["bypass"] == 1
            assert on.counted("cache_hits_total", "fast", "memory") == 3
            assert on.counted("cache_misses_total", "creative", "memory") == 1


def _streaming(on: Stage, body: dict[str, Any]) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
    return on.http.stream("POST", "/v1/chat/completions", json=body)


async def _leave_after_first_event(on: Stage, body: dict[str, Any]) -> None:
    async with _streaming(on, body) as answer:
        await anext(answer.aiter_bytes())
