"""What a caller's `Cache-Control` means, alone and where its directives contradict each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.cache import MemoryStore
from serve_app.gateway.cache_control import NOTHING_SAID, CacheControl, read_cache_control
from tests.serve_app.gateway.builders import chat
from tests.serve_app.gateway.serving import stage

YEARS_S = 2.0**31


def control(**said: object) -> CacheControl:
    return CacheControl(**said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        (None, NOTHING_SAID),
        (b"", NOTHING_SAID),
        (b"max-age=60", control(max_age_s=60.0)),
        (b"Max-Age = 60", control(max_age_s=60.0)),
        (b'max-age="60"', control(max_age_s=60.0)),
        (b"max-age=0", control(no_cache=True, max_age_s=0.0)),
        (b"no-cache", control(no_cache=True)),
        (b"no-store", control(no_store=True)),
        (b"NO-STORE, no-cache", control(no_store=True, no_cache=True)),
        (b"no-store, max-age=60", control(no_store=True, max_age_s=60.0)),
        (b"no-cache, max-age=60", control(no_cache=True, max_age_s=60.0)),
        (b"max-age=60, max-age=5", control(max_age_s=5.0)),
        (b"No-Semantic", control(no_semantic=True)),
        (b"no-semantic, max-age=5", control(no_semantic=True, max_age_s=5.0)),
        (b"max-age=5,max-age=60", control(max_age_s=5.0)),
        (b"max-age=-1", control(no_cache=True, max_age_s=0.0)),
        (b"max-age=nan", control(no_cache=True, max_age_s=0.0)),
        (b"max-age=1e9", control(no_cache=True, max_age_s=0.0)),
        (b"max-age=1.5", control(no_cache=True, max_age_s=0.0)),
        (b"max-age=", control(no_cache=True, max_age_s=0.0)),
        (b"max-age", control(no_cache=True, max_age_s=0.0)),
        (b"max-age=60, max-age=soon", control(no_cache=True, max_age_s=0.0)),
        (b"max-age=" + b"9" * 5000, control(max_age_s=YEARS_S)),
        (b"max-stale=60, only-if-cached, min-fresh=9, private", NOTHING_SAID),
        (b"x-no-store, no-store-please", NOTHING_SAID),
    ],
)
def test_a_header_means(header: bytes | None, meant: CacheControl) -> None:
    assert read_cache_control(header) == meant


@given(st.binary(max_size=200))
def test_no_header_is_too_odd_to_be_read(header: bytes) -> None:
    said = read_cache_control(header)
    assert said.max_age_s is None or 0 <= said.max_age_s <= YEARS_S


class TestMaxAge:
    async def test_passes_over_an_older_answer_and_leaves_a_new_one_for_all(self) -> None:
        now_s = [0.0]
        store = MemoryStore(max_bytes=2**20, clock=lambda: now_s[0])
        async with stage("mini", store=store) as one:

            async def state(**headers: str) -> str:
                return (await one.chat(chat(), **headers)).headers["x-headroom-cache"]

            assert await state() == "miss"
            now_s[0] = 50.0
            assert await state(cache_control="max-age=60") == "hit"
            assert await state(cache_control="max-age=40") == "miss"
            now_s[0] = 80.0
            assert await state(cache_control="max-age=40") == "hit"
            assert one.engine.counts.num_started == 2

    async def test_beside_no_store_leaves_nothing_behind(self) -> None:
        async with stage("mini") as one:
            await one.chat(chat(), cache_control="no-store, max-age=60")
            assert (await one.chat(chat())).headers["x-headroom-cache"] == "miss"

    async def test_of_0_asks_the_engine_though_an_equal_answer_has_just_been_stored(self) -> None:
        async with stage("mini") as one:
            await one.chat(chat())
            await one.chat(chat(), cache_control="max-age=0")
            assert one.engine.counts.num_started == 2
