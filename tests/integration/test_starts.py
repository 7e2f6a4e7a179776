"""Starts that go partly or wholly wrong: what fits is served, what does not is refused with its numbers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from serve_app.ops.haproxy import WRAPPER_NAME, write_wrapper
from serve_app.ops.local_cluster import LocalCluster, Ports, environment, ray_start_command, serve_run_command
from tests.integration.asking import error_of, post_chat, user
from tests.integration.default_models import HEADROOM, ROOT, copy_models
from tests.integration.live_cluster import LiveCluster, clean_environment, free_ports, lives, short_home
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

HUGE = "900GiB"


def one_fits_one_does_not() -> str:
    """`mini` as shipped, and `small` with a KV cache larger than any machine of ours."""
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    args = document["applications"][0]["args"]
    mini, small, _ = args["models"]
    args["models"] = [mini, {**small, "kv_cache_bytes": HUGE}]
    args["modes"] = {"fast": {**args["modes"]["fast"], "candidates": ["small", "mini"]}}
    return str(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture(scope="class")
def half() -> Iterator[LiveCluster]:
    """Ends with the class that asks it: the next one starts a Ray of its own."""
    home = short_home()
    copy_models(home, ("mini", "small"))
    cluster = LiveCluster(one_fits_one_does_not(), home=home)
    try:
        cluster.wait_for_health("degraded")
        yield cluster
    finally:
        cluster.stop()


class TestModelThatDoesNotFit:
    def test_it_is_refused_with_the_numbers_before_anything_starts(self, half: LiveCluster) -> None:
        said = half.said()
        assert "No room for 'small'" in said
        assert "it needs 9" in said
        assert "headroom" in said

    def test_health_says_why(self, half: LiveCluster) -> None:
        models = half.health()["models"]
        assert models["mini"]["status"] == "ready"
        assert models["small"]["status"] == "refused"
        assert "No room for 'small'" in models["small"]["reason"]

    def test_the_others_are_served(self, half: LiveCluster) -> None:
        with httpx.Client(base_url=half.url, trust_env=False, timeout=60) as http:
            answer = post_chat(http, {"model": "mini", "messages": user("What is 3 + 4?")})
            assert answer.status_code == 200

    def test_a_mode_takes_its_next_candidate(self, half: LiveCluster) -> None:
        with httpx.Client(base_url=half.url, trust_env=False, timeout=60) as http:
            answer = post_chat(http, {"model": "fast", "messages": user("What is 3 + 4?")})
            assert answer.headers["x-headroom-model"] == "mini"

    def test_asking_for_it_is_a_503_with_the_same_numbers(self, half: LiveCluster) -> None:
        with httpx.Client(base_url=half.url, trust_env=False, timeout=60) as http:
            answer = post_chat(http, {"model": "small", "messages": user("What is 3 + 4?")})
        error = error_of(answer)
        assert (answer.status_code, error["code"], error["origin"]) == (503, "model_refused", "controller")
        assert half.health()["models"]["small"]["reason"] in error["message"]
        assert "retry-after" not in answer.headers

    def test_the_status_command_ends_with_1(self, half: LiveCluster) -> None:
        done = half.headroom("status", "--address", half.url)
        assert done.code == 1
        assert "refused" in done.out


@pytest.fixture
def ray() -> Iterator[LocalCluster]:
    """A Ray head and nothing else, with a cluster.yaml that has one unknown key."""
    home = short_home()
    cluster = _local_cluster(home)
    running = subprocess.Popen(
        ray_start_command(cluster),
        env=clean_environment(home, environment(cluster)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        sockets = cluster.temp_dir / "session_latest" / "sockets"
        eventually(lambda: any(sockets.glob("raylet*")), deadline_s=90, what="a raylet")
        yield cluster
    finally:
        _end_tree(running)
        shutil.rmtree(home, ignore_errors=True)


class TestPlainServeRun:
    def test_serves_status_has_the_sentence_of_the_configuration_error(self, ray: LocalCluster) -> None:
        variables = clean_environment(ray.home, environment(ray))
        serving = subprocess.Popen(
            serve_run_command(ray), env=variables, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        try:
            message = eventually(lambda: _message(ray), deadline_s=120, what="a failed application")
            serving.send_signal(signal.SIGINT)
            serving.wait(60)
        finally:
            serving.kill()
            serving.wait(60)
        assert "args.fleet.colour" in message
        assert "is an unknown key" in message


def _message(ray: LocalCluster) -> str:
    """What Serve says of the application once it has failed."""
    token = (ray.run_dir / "ray-token").read_text()
    url = f"http://127.0.0.1:{ray.ports.dashboard}/api/serve/applications/"
    try:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10, trust_env=False)
        application = answer.json()["applications"]["headroom"]
    except (httpx.HTTPError, ValueError, KeyError):
        return ""
    return str(application["message"]) if application["status"] == "DEPLOY_FAILED" else ""


def _local_cluster(home: Path) -> LocalCluster:
    http, gcs, dashboard, agent, client, stats, metrics, fallback_http, fallback_grpc = free_ports(9)
    wrong = (ROOT / "cluster.yaml").read_text().replace("headroom: 0.20", "headroom: 0.20\n        colour: red")
    config = home / "cluster.yaml"
    config.write_text(wrong.replace("port: 8000", f"port: {http}"))
    (home / "ray-token").write_text(os.urandom(32).hex())
    write_wrapper(home / WRAPPER_NAME)
    return LocalCluster(
        config=config,
        home=home,
        run_id=home.name,
        run_dir=home,
        temp_dir=home / "ray",
        socket_dir=home,
        address="127.0.0.1",
        ports=Ports(
            http=http,
            gcs=gcs,
            dashboard=dashboard,
            dashboard_agent=agent,
            ray_client=client,
            haproxy_stats=stats,
            haproxy_metrics=metrics,
            fallback_http=fallback_http,
            fallback_grpc=fallback_grpc,
        ),
        num_cpus=2,
        memory_bytes=4 << 30,
        programs=HEADROOM.parent,
        tracing={},
    )


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    """Our own Ray, by the ids of its processes: never `ray stop`, which ends every Ray of the machine."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for member in family:
        if lives(member):
            member.kill()
    eventually(lambda: not any(lives(member) for member in family), deadline_s=10, what="the end of Ray")
