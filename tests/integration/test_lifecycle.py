"""Models that come and go while the others serve on: asleep until somebody asks, unloaded until somebody loads."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.integration.asking import error_of, post_chat, user
from tests.integration.live_cluster import LiveCluster, lives
from tests.integration.traffic import Traffic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def headroom(cluster: LiveCluster, action: str, model: str) -> None:
    done = cluster.headroom("models", action, model, "--address", cluster.url, timeout_s=150)
    assert done.code == 0, done.err


class TestLifecycle:
    def test_a_model_sleeps_and_the_next_request_wakes_it(self, cluster: LiveCluster, client: openai.OpenAI) -> None:
        engine, undisturbed = cluster.engine_core("mini"), cluster.engine_core("base")
        with Traffic(cluster.url, "base", num_clients=1) as others:
            headroom(cluster, "sleep", "mini")
            assert not lives(engine), "its memory is free"
            assert cluster.health()["models"]["mini"]["status"] == "asleep"
            assert cluster.health()["status"] == "ok", "asleep is as it should be"
            patient = client.with_options(
                max_retries=5, timeout=90
            )  # past a minute the answer is a 503 with Retry-After
            answer = patient.chat.completions.create(model="mini", messages=user("What is 3 + 4?"), max_tokens=4)
        assert answer.choices[0].message.content
        assert set(others.statuses) == {200}
        assert cluster.engine_core("base") == undisturbed

    def test_an_unloaded_model_is_refused_with_its_reason_until_it_is_loaded(
        self, cluster: LiveCluster, http: httpx.Client
    ) -> None:
        headroom(cluster, "unload", "mini")
        refused = post_chat(http, {"model": "mini", "messages": user("What is 3 + 4?")})
        assert (refused.status_code, error_of(refused)["code"]) == (503, "model_refused")
        assert "unloaded by hand" in error_of(refused)["message"]
        by_mode = post_chat(http, {"model": "fast", "messages": user("What is 3 + 4?"), "max_tokens": 4})
        assert by_mode.json()["model"] == "small", "the mode goes on with its next candidate"
        headroom(cluster, "load", "mini")
        assert post_chat(http, {"model": "mini", "messages": user("What is 3 + 4?")}).status_code == 200
