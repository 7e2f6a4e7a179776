"""A changed cluster.yaml is applied while every model is asked: what need not change does not notice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.integration.asking import post_chat, user
from tests.integration.live_cluster import LiveCluster
from tests.integration.traffic import Traffic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MODELS = ("mini", "small", "base")
_APPLY_S = 300.0


def changed_file(cluster: LiveCluster, **models: dict[str, Any]) -> Path:
    """The file of the cluster with other values for some models; None takes the model out."""
    document = yaml.safe_load(cluster.file.read_text())
    args = document["applications"][0]["args"]
    args["models"] = [{**model, **models.get(model["id"], {})} for model in args["models"]]
    args["modes"]["quick"] = {"candidates": ["mini"], "sampling": {"max_tokens": 4}}
    file = cluster.home / "changed.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def states(cluster: LiveCluster) -> dict[str, int]:
    return {name: model["num_ready"] for name, model in cluster.health()["models"].items()}


@pytest.fixture
def restored(cluster: LiveCluster) -> Iterator[LiveCluster]:
    """The cluster, brought back to its own file afterwards."""
    yield cluster
    back = cluster.headroom("apply", str(cluster.file), "--address", cluster.url, "--yes", timeout_s=_APPLY_S)
    assert back.code == 0, back.out + back.err
    cluster.wait_for_health("ok", deadline_s=60)


@contextlib.contextmanager
def killing_new_engines(cluster: LiveCluster, model: str) -> Iterator[list[int]]:
    """As long as it lasts, whatever a new replica of the model starts is killed at once; gives the pids."""
    known, killed, over = set(cluster.family(model)), list[int](), threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for process in cluster.family(model):
                if process not in known:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                        killed.append(process.pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


class TestApply:
    def test_nothing_to_do_is_said_and_nothing_is_done(self, cluster: LiveCluster) -> None:
        cores = [cluster.engine_core(model) for model in MODELS]
        done = cluster.headroom("apply", str(cluster.file), "--address", cluster.url, timeout_s=_APPLY_S)
        assert done.code == 0, done.err
        assert "0 to do, 3 unchanged" in done.out
        assert [cluster.engine_core(model) for model in MODELS] == cores

    def test_a_dry_run_shows_the_steps_and_changes_nothing(self, cluster: LiveCluster) -> None:
        file = changed_file(cluster, mini={"replicas": 2})
        done = cluster.headroom("apply", str(file), "--address", cluster.url, "--dry-run", timeout_s=_APPLY_S)
        assert done.code == 0, done.err
        assert "start mini#1 on head/host" in done.out
        assert states(cluster) == {"mini": 1, "small": 1, "base": 1}

    def test_what_needs_a_restart_is_refused_by_its_key(self, cluster: LiveCluster) -> None:
        document = yaml.safe_load(cluster.file.read_text())
        document["applications"][0]["args"]["fleet"]["headroom"] = 0.25
        file = cluster.home / "headroom.yaml"
        file.write_text(yaml.safe_dump(document))
        done = cluster.headroom("apply", str(file), "--address", cluster.url, timeout_s=_APPLY_S)
        assert done.code == 1
        assert "`fleet.headroom` cannot change while the cluster runs" in done.err

    def test_a_second_replica_other_arguments_and_a_new_mode_cost_no_request(self, restored: LiveCluster) -> None:
        cluster = restored
        untouched = cluster.engine_core("base")
        file = changed_file(cluster, mini={"replicas": 2}, small={"max_num_seqs": 32})
        with contextlib.ExitStack() as stack:
            traffic = {model: stack.enter_context(Traffic(cluster.url, model, num_clients=1)) for model in MODELS}
            done = cluster.headroom("apply", str(file), "--address", cluster.url, "--yes", timeout_s=_APPLY_S)
        assert done.code == 0, done.out + done.err
        assert {model: set(of.statuses) for model, of in traffic.items()} == {model: {200} for model in MODELS}
        assert states(cluster) == {"mini": 2, "small": 1, "base": 1}
        assert cluster.engine_core("base") == untouched
        with httpx.Client(base_url=cluster.url, trust_env=False, timeout=60) as http:
            answer = post_chat(http, {"model": "quick", "messages": user("What is 3 + 4?")})
            assert (answer.status_code, answer.headers["x-headroom-mode"]) == (200, "quick")

    def test_a_start_that_fails_puts_everything_back(self, restored: LiveCluster) -> None:
        cluster = restored
        before = {model: cluster.engine_core(model) for model in MODELS}
        file = changed_file(cluster, mini={"replicas": 2})
        with Traffic(cluster.url, "mini", num_clients=1) as asked, killing_new_engines(cluster, "mini") as killed:
            done = cluster.headroom("apply", str(file), "--address", cluster.url, "--yes", timeout_s=_APPLY_S)
        assert killed, "no engine was seen to start"
        assert done.code == 1, f"{len(killed)} killed\n{done.out}"
        assert "mini#1 did not start" in done.err
        assert set(asked.statuses) == {200}
        assert states(cluster) == {"mini": 1, "small": 1, "base": 1}
        assert {model: cluster.engine_core(model) for model in MODELS} == before
