"""What the product says of itself while it serves: pages, metrics, commands and Ray's dashboard."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import openai
import pytest

from tests.integration.asking import chat, post_chat, user
from tests.integration.default_models import ROOT
from tests.integration.live_cluster import LiveCluster
from tests.integration.prometheus import sample, samples
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MODELS = {"mini", "small", "base"}
CACHE_METRICS = ("cache_hits_total", "cache_misses_total", "cache_hit_rate", "cache_ttl_expired_total")


class TestHealth:
    def test_it_is_ok_when_every_model_answers(self, cluster: LiveCluster) -> None:
        health = cluster.health()
        assert health["status"] == "ok"
        assert {name: one["status"] for name, one in health["models"].items()} == dict.fromkeys(MODELS, "ready")

    def test_the_command_says_the_same(self, cluster: LiveCluster) -> None:
        done = cluster.headroom("status", "--address", cluster.url, "--json")
        assert done.code == 0, done.err
        said = json.loads(done.out)
        assert said["health"]["status"] == "ok"
        assert {one["id"] for one in said["models"]} == MODELS


class TestModelsInfo:
    def test_it_names_the_weights_that_serve(self, cluster: LiveCluster) -> None:
        for model in cluster.get("/models/info").json()["models"]:
            state = json.loads((_deployed(cluster, model["id"]) / "trainer_state.json").read_text())
            assert model["loaded"]
            assert model["checkpoint_step"] == state["global_step"]
            assert model["checkpoint"] == f"checkpoint-{state['global_step']}"
            assert len(model["weights_version"]) == 12

    def test_it_counts_the_bytes_in_use(self, cluster: LiveCluster) -> None:
        for model in cluster.get("/models/info").json()["models"]:
            weights = _deployed(cluster, model["id"]) / "model.safetensors"
            assert model["memory_bytes"] > weights.stat().st_size


class TestFleet:
    def test_every_share_is_measured_and_the_headroom_is_kept(self, cluster: LiveCluster) -> None:
        done = cluster.headroom("gpus", "--once", "--json", "--address", cluster.url)
        assert done.code == 0, done.err
        (device,) = json.loads(done.out)["devices"]
        shares = {one["name"]: one for one in device["holders"] if one["kind"] == "replica"}
        assert device["passes"]
        assert {name.split("#")[0].split("@")[0] for name in shares} == MODELS
        assert all(one["state"] == "ready" and one["measured_bytes"] > 0 for one in shares.values())

    def test_no_share_is_larger_than_planned_by_more_than_a_tenth(self, cluster: LiveCluster) -> None:
        (device,) = cluster.fleet()["devices"]
        for share in device["holders"]:
            if share["kind"] == "replica":
                assert share["measured_bytes"] <= 1.10 * share["planned_bytes"], share


class TestCacheStats:
    def test_it_has_a_row_for_every_mode_with_its_ttl(self, cluster: LiveCluster) -> None:
        page = cluster.get("/admin/cache/stats").json()
        assert {mode: row["ttl_s"] for mode, row in page["modes"].items()} == {
            "fast": 300,
            "balanced": 600,
            "creative": 1800,
            "none": 0,
        }


class TestMetrics:
    def test_the_cache_metrics_have_their_exact_names_and_labels(self, cluster: LiveCluster) -> None:
        found = samples(cluster)
        for name in CACHE_METRICS:
            labels = [dict(pairs) for metric, pairs in found if metric == name]
            assert {"fast", "balanced", "creative"} <= {one["mode"] for one in labels}, name
            assert all(one.keys() == {"mode", "cache_type"} for one in labels), name

    def test_totals_rise_by_what_was_asked(self, client: openai.OpenAI, cluster: LiveCluster) -> None:
        asked = {"mode": "none", "model": "small", "outcome": "success"}
        requests = sample(cluster, "headroom_inference_requests_total", **asked)
        tokens = sample(cluster, "headroom_tokens_total", model="small", type="output")
        num_tokens = 0
        for _ in range(3):
            usage = chat(client, "small", "Even or odd: 5").usage
            assert usage is not None
            num_tokens += usage.completion_tokens
        eventually(
            lambda: (
                sample(cluster, "headroom_inference_requests_total", **asked) == requests + 3
                and sample(cluster, "headroom_tokens_total", model="small", type="output") == tokens + num_tokens
            ),
            deadline_s=10,
            what="three requests and their tokens counted",
        )

    def test_a_hit_and_a_miss_are_counted(self, http: httpx.Client, cluster: LiveCluster) -> None:
        labels = {"mode": "fast", "cache_type": "memory"}
        before = [sample(cluster, name, **labels) for name in CACHE_METRICS[:2]]
        body = {"model": "fast", "messages": user("Count the letters: metrics")}
        assert [post_chat(http, body).headers["x-headroom-cache"] for _ in range(2)] == ["miss", "hit"]
        eventually(
            lambda: [sample(cluster, name, **labels) for name in CACHE_METRICS[:2]] == [one + 1 for one in before],
            deadline_s=10,
            what="one hit and one miss counted",
        )

    def test_devices_and_replicas_are_there(self, cluster: LiveCluster) -> None:
        names = {name for name, _ in samples(cluster)}
        assert {"headroom_device_memory_bytes", "headroom_device_headroom_ratio", "headroom_build_info"} <= names
        assert sample(cluster, "headroom_model_replicas", model="base", state="ready") == 1


class TestEval:
    def test_it_grades_the_live_model(self, cluster: LiveCluster) -> None:
        arguments = ("eval", "mini", "--limit", "20", "--json", "--base-url", f"{cluster.url}/v1")
        done = cluster.headroom(*arguments)
        assert done.code == 0, done.err
        assert json.loads(done.out)["total"]["num_asked"] == 20

    def test_the_models_really_know_something(self, cluster: LiveCluster) -> None:
        arguments = ("eval", "base", "--limit", "90", "--json", "--base-url", f"{cluster.url}/v1")
        assert json.loads(cluster.headroom(*arguments).out)["total"]["accuracy"] > 0.3


class TestPlanCommand:
    def test_it_says_that_something_serves_here_already(self, cluster: LiveCluster) -> None:
        done = cluster.headroom("plan", str(cluster.home / "cluster.yaml"), "--json")
        assert done.code in (0, 1), done.err
        assert json.loads(done.out)


class TestDashboard:
    """What Ray's own dashboard is fed with."""

    def test_every_model_is_a_deployment_with_its_devices(self, cluster: LiveCluster) -> None:
        applications = cluster.dashboard("/api/serve/applications/")["applications"]
        (device,) = cluster.fleet()["devices"]
        for model in MODELS:
            name = f"{model}@head"
            deployment = applications[name]["deployments"][name]
            assert deployment["status"] == "HEALTHY"
            assert len(deployment["replicas"]) == 1
            config = deployment["deployment_config"]
            assert config["num_replicas"] == 1
            assert config["user_config"]["devices"] == [device["id"]]

    def test_gateway_and_controller_are_the_application_of_the_file(self, cluster: LiveCluster) -> None:
        applications = cluster.dashboard("/api/serve/applications/")["applications"]
        assert applications["headroom"]["status"] == "RUNNING"
        assert {"gateway", "controller"} <= applications["headroom"]["deployments"].keys()

    def test_it_wants_this_runs_token(self, cluster: LiveCluster) -> None:
        answer = httpx.get(f"{cluster.dashboard_url}/api/serve/applications/", trust_env=False)
        assert answer.status_code == 401


class TestLogs:
    """Below the home's `ray`, one file per replica."""

    def test_a_replica_writes_on_after_its_engine_has_started(self, cluster: LiveCluster) -> None:
        logs = cluster.home / "ray" / "session_latest" / "logs" / "serve"
        (log,) = logs.glob("replica_base@head_*.log")
        assert "engine ready" in log.read_text()


class TestShippedFile:
    def test_the_cluster_runs_it_but_for_its_ports(self, cluster: LiveCluster) -> None:
        shipped, run = (ROOT / "cluster.yaml").read_text(), (cluster.home / "cluster.yaml").read_text()
        different = [
            (one, other) for one, other in zip(shipped.splitlines(), run.splitlines(), strict=True) if one != other
        ]
        assert sorted(one.strip() for one, _ in different) == ["grpc_port: 7212", "port: 8000", "zeromq_port: 7211"]


def _deployed(cluster: LiveCluster, model: str) -> Path:
    """The checkpoint that serves: where the link `deployed` leads."""
    return (cluster.home / "models" / model / "deployed").resolve(strict=True)
