"""Answers to similar questions, through the whole gateway: who gets one, what it says, when it dies."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.settings import Settings
from serve_app.errors import HeadroomError
from serve_app.gateway.cache import MemoryStore, Store
from serve_app.gateway.embedders import embedder
from serve_app.gateway.embedding import Embedder, Vector
from serve_app.gateway.semantic_cache import SemanticCache
from tests.serve_app.access.makers import grant, key_store, made
from tests.serve_app.gateway.builders import backend, catalog, chat, decided, settings, table
from tests.serve_app.gateway.serving import stage, two_gateways
from tests.serve_app.gateway.test_cache import Clock, entry

ONE = "What is the capital of France?"
SAME = "Could you tell me the capital of France"
OTHER = "What is the capital of Spain?"
WEATHER = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def comparing(*modes: str, similarity: float = 0.95) -> Settings:
    of = settings()
    changed = (
        dataclasses.replace(mode, semantic_similarity=similarity) if mode.name in (modes or ("fast",)) else mode
        for mode in of.modes
    )
    return dataclasses.replace(of, modes=tuple(changed))


def _cache(answer: httpx.Response) -> str:
    return answer.headers["x-headroom-cache"]


class TestASemanticHit:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_is_the_stored_answer_and_says_how_similar_its_question_was(self, stream: bool) -> None:
        async with stage("mini", of=comparing()) as on:
            miss, hit = await on.chat(chat(text=ONE, stream=stream)), await on.chat(chat(text=SAME, stream=stream))
            assert (_cache(miss), _cache(hit)) == ("miss", "semantic")
            assert hit.content == miss.content
            assert 0.95 <= float(hit.headers["x-headroom-cache-similarity"]) < 1
            assert "x-headroom-cache-similarity" not in miss.headers
            assert on.engine.counts.num_started == 1

    async def test_is_off_unless_the_mode_says_how_similar(self) -> None:
        async with stage("mini", of=comparing("balanced")) as on:
            assert [_cache(await on.chat(chat("creative", text))) for text in (ONE, SAME)] == ["miss", "miss"]
            assert [_cache(await on.chat(chat("balanced", text))) for text in (ONE, SAME)] == ["miss", "semantic"]

    async def test_is_never_stored_as_an_answer_of_its_own(self) -> None:
        async with stage("mini", of=comparing()) as on:
            kinds = [_cache(await on.chat(chat(text=text))) for text in (ONE, SAME, SAME, ONE)]
            assert kinds == ["miss", "semantic", "semantic", "hit"]
            assert (await on.cache_row())["entries"] == 1

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (chat(text="What is 3 + 4?"), chat(text="What is 3 + 5?")),
            (chat(text="Reverse 'star'"), chat(text="Reverse 'rats'")),
            (chat(text=ONE), chat(text=OTHER)),
            (chat(text=ONE), chat(text=SAME, seed=1)),
            (chat(text=ONE), chat(text=SAME, stream=True)),
            (chat(text=ONE), chat("balanced", text=SAME)),
            (
                chat(text=ONE),
                {**chat(), "messages": [{"role": "system", "content": "x"}, *chat(text=SAME)["messages"]]},
            ),
            (chat(text=ONE, tools=WEATHER), chat(text=SAME, tools=WEATHER)),
        ],
    )
    async def test_is_never_given_where_more_than_the_wording_differs(
        self, first: dict[str, Any], second: dict[str, Any]
    ) -> None:
        async with stage("mini", of=comparing("fast", "balanced")) as on:
            assert [_cache(await on.chat(body)) for body in (first, second)] == ["miss", "miss"]

    async def test_is_never_given_to_another_tenant_or_of_other_weights(self) -> None:
        async with stage("mini", of=comparing()) as on:
            store = key_store()
            root, _ = made(store, now_s=1.0)
            ours, theirs = (
                {"authorization": f"Bearer {made(store, grant(tenant=one), by=root.id, now_s=1.0)[1].decode()}"}
                for one in ("ours", "theirs")
            )
            shown = dataclasses.replace(table(backend("mini", url=on.urls["mini"]), version=2), access=store.snapshot())
            on.gateway.update(shown)
            kinds = [
                _cache(await on.chat(chat(text=t), **who)) for t, who in ((ONE, ours), (SAME, theirs), (SAME, ours))
            ]
            assert kinds == ["miss", "miss", "semantic"]
            newer = backend("mini", url=on.urls["mini"], version="v2")
            on.gateway.update(dataclasses.replace(shown, backends=(newer,), version=3))
            assert _cache(await on.chat(chat(text=SAME), **ours)) == "miss"

    async def test_is_refused_by_no_semantic_and_whatever_refuses_an_exact_one(self) -> None:
        async with stage("mini", of=comparing()) as on:
            await on.chat(chat(text=ONE))
            for control in ("no-store", "no-cache"):
                assert _cache(await on.chat(chat(text=f"So, {ONE}"), cache_control=control)) == "bypass"
            assert _cache(await on.chat(chat(text=ONE), cache_control="no-semantic")) == "hit"
            assert _cache(await on.chat(chat(text=SAME), cache_control="No-Semantic")) == "miss"

    async def test_dies_with_the_answer_it_points_at(self) -> None:
        clock = Clock()
        store = MemoryStore(max_bytes=1024 * 1024, clock=clock)
        async with stage("mini", of=comparing(), store=store) as on:
            await on.chat(chat(text=ONE))
            clock.now_s += 10
            assert _cache(await on.chat(chat(text=SAME), cache_control="max-age=9")) == "miss", (
                "it is too old for this one"
            )
            clock.now_s += 289
            assert _cache(await on.chat(chat(text="tell me the capital of France"))) == "semantic"
            clock.now_s += 300
            assert _cache(await on.chat(chat(text="the capital of France"))) == "miss"

    async def test_is_found_whichever_gateway_is_asked(self) -> None:
        async with two_gateways(of=comparing()) as (one, other):
            for number in range(8):
                kinds = [
                    _cache(await on.chat(chat(text=f"{text} {number}"))) for on, text in ((one, ONE), (other, SAME))
                ]
                assert kinds == ["miss", "semantic"]
            page = (await other.http.get("/admin/cache/stats")).json()
            assert (page["semantic"]["entries"], page["modes"]["fast"]["semantic_hits"]) == (8, 8)


class TestItsFigures:
    async def test_are_apart_from_those_of_exact_hits(self) -> None:
        async with stage("mini", of=comparing()) as on:
            for text in (ONE, ONE, SAME, OTHER):
                await on.chat(chat(text=text))
            row = await on.cache_row()
            assert (row["hits"], row["misses"], row["hit_rate"]) == (1, 3, 0.25)
            assert (row["semantic_hits"], row["semantic_misses"], row["semantic_similarity"]) == (1, 2, 0.95)
            assert on.counted("cache_hits_total", "fast", "semantic") == 1

    async def test_count_no_look_up_where_nobody_compares(self) -> None:
        async with stage("mini") as on:
            await on.chat(chat(text=ONE))
            row = await on.cache_row()
            assert (row["semantic_hits"], row["semantic_misses"]) == (0, 0)


class BrokenEmbedder:
    """Raises, or gives what is no vector."""

    name = "broken"
    num_dims = 4

    def __init__(self, vector: Vector | None = None) -> None:
        self.vector = vector

    async def embed(self, text: str) -> Vector:
        if self.vector is None:
            raise RuntimeError(text)
        return self.vector


class Agreeing(BrokenEmbedder):
    """Finds all questions alike."""

    name = "agreeing"

    def __init__(self) -> None:
        super().__init__(np.array([1, 0, 0, 0], dtype=np.float32))


class TestAnEmbedderThatFindsAllAlike:
    @given(st.integers(0, 10**6), st.integers(0, 10**6), st.text("abcd", min_size=1), st.text("abcd", min_size=1))
    async def test_is_overruled_where_a_number_or_a_quoted_word_differs(
        self, one: int, other: int, word: str, quoted: str
    ) -> None:
        store = MemoryStore(max_bytes=2**20, clock=Clock())
        cache = SemanticCache(embedder=Agreeing(), answers=store, max_bytes=2**20)
        known = catalog(backend("mini"), of=comparing())
        first, second = (
            decided(chat(text=f"What of {number} and '{said}'?"), known)
            for number, said in ((one, word), (other, quoted))
        )
        assert first.key is not None
        await store.put(first.key, entry(), ttl_s=60)
        await cache.remember(first)
        assert (await cache.find(second) is not None) == ((one, word) == (other, quoted))


class TestAnEmbedder:
    @pytest.mark.parametrize("vector", [None, np.zeros(4), np.full(4, np.nan), np.ones(3), np.full(4, np.inf)])
    async def test_that_fails_is_a_miss_and_counted(self, vector: Vector | None) -> None:
        store: Store = MemoryStore(max_bytes=2**20, clock=Clock())
        cache = SemanticCache(embedder=BrokenEmbedder(vector), answers=store, max_bytes=2**20)
        asked = decided(chat(text=ONE), catalog(backend("mini"), of=comparing()))
        assert asked.key is not None
        await store.put(asked.key, entry(), ttl_s=60)
        await cache.remember(asked)
        assert await cache.find(asked) is None
        assert cache.num_faults == 2
        assert cache.stats()["entries"] == 0

    def test_is_the_lexical_one_by_default_and_says_so(self) -> None:
        assert embedder(settings().cache.embedder).name == "lexical"

    def test_is_found_by_its_entry_point(self) -> None:
        point = EntryPoint(name="mine", value=f"{__name__}:BrokenEmbedder", group="headroom.embedders")
        found: Embedder = embedder("mine", (point,))
        assert found.name == "broken"

    def test_that_is_not_installed_is_refused_with_those_that_are(self) -> None:
        point = EntryPoint(name="mine", value="nowhere:x", group="headroom.embedders")
        with pytest.raises(HeadroomError, match=r"'other'.*There are: lexical, mine"):
            embedder("other", (point,))

    def test_that_is_none_is_refused(self) -> None:
        point = EntryPoint(name="mine", value="builtins:dict", group="headroom.embedders")
        with pytest.raises(HeadroomError, match="gave a dict"):
            embedder("mine", (point,))


class TestADecision:
    def test_compares_nothing_in_a_mode_without_a_threshold(self) -> None:
        assert decided(chat(text=ONE), catalog(backend("mini"))).question is None
