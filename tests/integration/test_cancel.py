"""A client that leaves takes its work with it: the engine stops at once and is free for others."""

from __future__ import annotations

import json
import socket
import time
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
    """The engine takes no processor time: it works on nothing, long before it could have done what was asked."""
    engine = [cluster.engine_core("base"), *cluster.engine_core("base").children(recursive=True)]

    def used_s() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in engine))

    def rests() -> bool:
        before_s, began_s = used_s(), time.monotonic()
        time.sleep(0.5)  # a measuring interval, not a wait
        return used_s() - before_s < 0.2 * (time.monotonic() - began_s)

    eventually(rests, deadline_s=10, what="an idle engine")


def ask(connection: socket.socket, *, apart: bool) -> None:
    """LONG, all at once or with the body in a packet of its own, as httpx and the official client send it."""
    body = json.dumps(LONG).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    if not apart:
        connection.sendall(head + body)
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(head)
    time.sleep(0.02)  # two packets for certain
    connection.sendall(body)


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
            deadline_s=5,
            what="nothing in flight, every leaving counted",
        )

    @pytest.mark.parametrize("apart", [False, True], ids=["in_one_packet", "body_apart"])
    def test_before_the_whole_answer_is_there_frees_the_engine(self, cluster: LiveCluster, apart: bool) -> None:
        before, address = cancelled(cluster), urlsplit(cluster.url)
        leaving = [socket.create_connection((address.hostname, address.port)) for _ in range(NUM_LEAVING)]
        for one in leaving:
            ask(one, apart=apart)
        eventually(lambda: in_flight(cluster) == NUM_LEAVING, deadline_s=10, what="all of them at work")
        for one in leaving:
            one.close()
        wait_for_rest(cluster)
        eventually(
            lambda: in_flight(cluster) == 0 and cancelled(cluster) == before + NUM_LEAVING,
            deadline_s=5,
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
