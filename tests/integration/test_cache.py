"""One answer, asked for often: miss, hit, shared, bypass, each as its header says."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.integration.asking import ENDLESS, post_chat, user
from tests.integration.live_cluster import LiveCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_AT_ONCE = 16
LONG_TOKENS = 300


def new_question(mode: str = "fast", **more: Any) -> dict[str, Any]:
    """One that nobody has asked before."""
    return {"model": mode, "messages": user(f"Repeat the word: {uuid4().hex[:6]}"), **more}


def stats(cluster: LiveCluster, mode: str) -> dict[str, int]:
    row: dict[str, int] = cluster.get("/admin/cache/stats").json()["modes"][mode]
    return row


class TestHit:
    def test_the_second_time_the_same_bytes_come_from_the_cache(self, http: httpx.Client) -> None:
        body = new_question()
        first, second = post_chat(http, body), post_chat(http, body)
        assert [one.headers["x-headroom-cache"] for one in (first, second)] == ["miss", "hit"]
        assert first.content == second.content

    def test_a_hit_names_the_weights_that_made_it_and_a_trace_of_its_own(self, http: httpx.Client) -> None:
        body = new_question()
        first, second = post_chat(http, body), post_chat(http, body)
        for name in ("x-headroom-model", "x-headroom-mode", "x-headroom-weights-version", "x-headroom-checkpoint-step"):
            assert first.headers[name] == second.headers[name]
        assert first.headers["x-trace-id"] != second.headers["x-trace-id"]

    def test_a_streamed_hit_replays_the_same_events(self, http: httpx.Client) -> None:
        body = new_question("balanced", stream=True)
        first, second = post_chat(http, body), post_chat(http, body)
        assert [one.headers["x-headroom-cache"] for one in (first, second)] == ["miss", "hit"]
        assert second.headers["content-type"].startswith("text/event-stream")
        assert first.content == second.content
        assert first.content.endswith(b"data: [DONE]\n\n")
        assert first.content.count(b"data: ") > 3

    def test_it_is_counted(self, http: httpx.Client, cluster: LiveCluster) -> None:
        before, body = stats(cluster, "creative"), new_question("creative")
        post_chat(http, body)
        post_chat(http, body)
        after = stats(cluster, "creative")
        assert {name: after[name] - before[name] for name in ("hits", "misses", "entries")} == {
            "hits": 1,
            "misses": 1,
            "entries": 1,
        }

    def test_completions_are_kept_too(self, http: httpx.Client) -> None:
        body = {"model": "fast", "prompt": f"Repeat the word: {uuid4().hex[:6]}"}
        answers = [http.post("/v1/completions", json=body) for _ in range(2)]
        assert [one.headers["x-headroom-cache"] for one in answers] == ["miss", "hit"]
        assert answers[0].content == answers[1].content


class TestNoHit:
    def test_another_mode_temperature_or_stream_is_another_answer(self, http: httpx.Client) -> None:
        body = new_question("balanced")
        others = [body, {**body, "temperature": 0.7}, {**body, "stream": True}, {**body, "model": "creative"}]
        assert [post_chat(http, one).headers["x-headroom-cache"] for one in others] == ["miss"] * 4

    def test_no_store_is_neither_read_nor_kept(self, http: httpx.Client) -> None:
        body = new_question()
        states = [
            post_chat(http, body, cache_control="no-store").headers["x-headroom-cache"],
            post_chat(http, body).headers["x-headroom-cache"],
            post_chat(http, body, cache_control="no-store").headers["x-headroom-cache"],
        ]
        assert states == ["bypass", "miss", "bypass"]

    def test_a_model_by_its_name_goes_past_the_cache(self, http: httpx.Client) -> None:
        body = new_question("mini")
        assert [post_chat(http, body).headers["x-headroom-cache"] for _ in range(2)] == ["bypass", "bypass"]

    def test_a_refused_request_is_not_kept(self, http: httpx.Client) -> None:
        body = {**new_question(), "messages": user("7 " * 600)}
        assert [post_chat(http, body).status_code for _ in range(2)] == [400, 400]
        assert post_chat(http, body).headers.get("x-headroom-cache") != "hit"


class TestSharedFlight:
    @pytest.mark.parametrize("stream", [False, True])
    def test_equal_requests_in_flight_share_one_run(
        self, http: httpx.Client, cluster: LiveCluster, stream: bool
    ) -> None:
        body = new_question("creative", stream=stream, max_tokens=LONG_TOKENS, **ENDLESS)
        before = stats(cluster, "creative")
        together = Barrier(NUM_AT_ONCE)

        def ask() -> httpx.Response:
            together.wait()
            return post_chat(http, body)

        with ThreadPoolExecutor(NUM_AT_ONCE) as threads:
            answers = [one.result() for one in [threads.submit(ask) for _ in range(NUM_AT_ONCE)]]
        states = Counter(one.headers["x-headroom-cache"] for one in answers)
        after = stats(cluster, "creative")
        assert {one.status_code for one in answers} == {200}
        assert len({one.content for one in answers}) == 1, "one run has one answer, its id included"
        assert states["miss"] == 1
        assert states["shared"] > 0
        assert states["shared"] + states["hit"] == NUM_AT_ONCE - 1
        assert after["misses"] - before["misses"] == 1
        assert after["shared"] - before["shared"] == states["shared"]
