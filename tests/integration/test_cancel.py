"""A client that leaves takes its work with it: the engine stops at once and is free for others."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.asking import ENDLESS, user
from tests.integration.live_cluster import LiveCluster
from tests.integration.prometheus import sample
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_LEAVING = 8
LONG = {"model": "base", "messages": user("Go on."), "max_tokens": 480, "n": 8, "temperature": 1, **ENDLESS}
"""Eight answers of 480 tokens. Eight clients of this keep the engine busy for half a minute."""


def cancelled(cluster: LiveCluster) -> float:
    return sample(cluster, "headroom_inference_requests_total", mode="none", model="base", outcome="cancelled")


def in_flight(cluster: LiveCluster) -> float:
    return sample(cluster, "headroom_requests_in_flight", model="base")


def wait_for_rest(cluster: LiveCluster) -> None:
    """The engine core takes no processor time: it works on nothing, long before it could have done what was asked."""
    core = cluster.engine_core("base")
    eventually(lambda: core.cpu_percent(interval=0.3) < 20, deadline_s=10, what="an idle engine core")


class TestLeaving:
    def test_in_the_middle_of_a_stream_frees_the_engine(self, http: httpx.Client, cluster: LiveCluster) -> None:
        before = cancelled(cluster)
        for _ in range(NUM_LEAVING):
            with http.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as answer:
                assert answer.status_code == 200
                next(answer.iter_raw())
        wait_for_rest(cluster)
        eventually(
            lambda: in_flight(cluster) == 0 and cancelled(cluster) == before + NUM_LEAVING,
            deadline_s=10,
            what="nothing in flight, every leaving counted",
        )

    def test_before_the_whole_answer_is_there_frees_the_engine(self, cluster: LiveCluster) -> None:
        before, address = cancelled(cluster), urlsplit(cluster.url).netloc
        leaving = [HTTPConnection(address, timeout=60) for _ in range(NUM_LEAVING)]
        for one in leaving:
            one.request("POST", "/v1/chat/completions", json.dumps(LONG), {"content-type": "application/json"})
        eventually(lambda: in_flight(cluster) == NUM_LEAVING, deadline_s=10, what="all of them at work")
        for one in leaving:
            one.close()
        wait_for_rest(cluster)
        eventually(
            lambda: in_flight(cluster) == 0 and cancelled(cluster) == before + NUM_LEAVING,
            deadline_s=10,
            what="nothing in flight, every leaving counted",
        )

    def test_of_one_who_shares_a_run_does_not_end_it_for_the_other(self, cluster: LiveCluster) -> None:
        shared = {**LONG, "model": "creative", "max_tokens": 200, "n": 1, "stream": True}
        url = f"{cluster.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=shared, timeout=60, trust_env=False) as kept:
            with httpx.stream("POST", url, json=shared, timeout=60, trust_env=False) as left:
                assert left.headers["x-headroom-cache"] == "shared"
                next(left.iter_raw())
            assert b"".join(kept.iter_raw()).endswith(b"data: [DONE]\n\n")
