"""Devices that are watched, leased, ill and lost: two Ray nodes on one machine, real engines, signals of a drill.

What a device says is laid over what it really says (`HEADROOM_DRILL_SIGNALS`); everything that follows is real.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import yaml
from google.protobuf import (  # type: ignore[import-untyped]  # ships no types
    descriptor_pool,
    json_format,
    message_factory,
)
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]
    ProtoReflectionDescriptorDatabase,
)

from tests.integration.asking import error_of, post_chat, user
from tests.integration.default_models import ROOT, copy_models
from tests.integration.live_cluster import LiveCluster, lives, short_home
from tests.integration.traffic import Traffic
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

GB = 10**9
SECOND = "second/host"
IDLE_AFTER_S = 5.0
MOVED_S = 150.0
"""Deadline on any machine; the promise is 60 s on two quiet cores, and the time is printed."""


def config() -> str:
    """The shipped file with two models, one of them twice, and a health that is in a hurry."""
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    args = document["applications"][0]["args"]
    mini, small, _ = args["models"]
    args["models"] = [{**mini, "replicas": 2}, small]
    args["modes"] = {"fast": args["modes"]["fast"]}
    args["fleet"]["idle_after_s"] = IDLE_AFTER_S
    args["training"] = {"compare": False}  # scorings would wait for more room than there is, and be waited for
    args["health"] = {
        "rest_s": 3.0,
        "lost_rest_s": 3.0,
        "rules": {
            "ECC_UNCORRECTABLE": {"window_s": 45.0},
            "THERMAL_CRITICAL": {"hold_s": 6.0},
            "POWER_CRITICAL": {"hold_s": 6.0},
        },
    }
    return str(yaml.safe_dump(document, sort_keys=False))


class Drill:
    """The file that devices' signals come from, where it says anything."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.over()

    def says(self, device: str, **signals: Any) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({device: signals}))
        new.replace(self.file)

    def over(self) -> None:
        self.file.write_text("{}")


@pytest.fixture(scope="module")
def drill_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drill") / "signals.json"


@pytest.fixture(scope="module")
def two_nodes(drill_file: Path) -> Iterator[LiveCluster]:
    """Head and second, each with a part of this machine's memory; one replica of `mini` is on the second."""
    home = short_home()
    copy_models(home, ("mini", "small"))
    Drill(drill_file)
    drilled = {"HEADROOM_DRILL_SIGNALS": str(drill_file)}
    cluster = LiveCluster(config(), home=home, environment=drilled, memory="9GB")
    try:
        cluster.wait_for_health("ok")
        cluster.join("second", memory_bytes=4 * GB)
        eventually(lambda: SECOND in devices(cluster), deadline_s=60, what="the second node in the plan")
        put_on_second(cluster)
        yield cluster
    finally:
        cluster.stop()


def put_on_second(cluster: LiveCluster) -> None:
    """One replica more than the head has now; replicas of a model keep apart, so it comes to the other node."""
    document = yaml.safe_load(cluster.file.read_text())
    args = document["applications"][0]["args"]
    args["models"][0]["replicas"] = sum(name.startswith("mini") for name in on(cluster, "head/host")) + 1
    file = cluster.home / "more.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    done = cluster.headroom("apply", str(file), "--address", cluster.url, "--yes", timeout_s=300)
    assert done.code == 0, done.out + done.err
    assert on(cluster, SECOND), done.out


@pytest.fixture
def drill(drill_file: Path) -> Iterator[Drill]:
    made = Drill(drill_file)
    yield made
    made.over()


def devices(cluster: LiveCluster) -> dict[str, dict[str, Any]]:
    return {device["id"]: device for device in cluster.fleet()["devices"]}


def health(cluster: LiveCluster, device: str = SECOND) -> str:
    return str(devices(cluster)[device]["health"])


def on(cluster: LiveCluster, device: str) -> list[str]:
    return [one["name"] for one in devices(cluster)[device]["holders"] if one["kind"] == "replica"]


def job(cluster: LiveCluster, job_id: str, *, node: str, at_step: int) -> dict[str, Any]:
    """Empty until it runs on the node and has come to the step."""
    told: dict[str, Any] = cluster.get(f"/v1/jobs/{job_id}").raise_for_status().json()
    reached = told["state"] == "running" and told["node"] == node and (told["step"] or 0) >= at_step
    return told if reached else {}


def alerts(cluster: LiveCluster, rule: str) -> list[dict[str, Any]]:
    page = cluster.get(f"/v1/alerts?rule={rule}").raise_for_status().json()
    return [alert for alert in page["alerts"] if alert["device"] == SECOND]


def until_health(cluster: LiveCluster, wanted: str, *, deadline_s: float = 60) -> None:
    eventually(lambda: health(cluster) == wanted, deadline_s=deadline_s, what=f"{SECOND} {wanted}")


class TestWatch:
    def test_a_killed_watch_is_replaced_before_anybody_is_taken_for_lost(self, two_nodes: LiveCluster) -> None:
        watch = below_second(two_nodes, "NodeWatch")
        before_s = last_poll_s(two_nodes)
        watch.kill()
        eventually(lambda: last_poll_s(two_nodes) > before_s, deadline_s=15, what="a poll by the backup")
        assert health(two_nodes) == "healthy"
        assert not lives(watch)


class TestThrottle:
    def test_a_hot_device_takes_fewer_requests_after_its_duration_and_all_when_it_is_cool(
        self, two_nodes: LiveCluster, drill: Drill
    ) -> None:
        drill.says(SECOND, temperature_c=90)
        until_health(two_nodes, "throttled")
        (alert,) = alerts(two_nodes, "THERMAL_CRITICAL")
        assert (alert["action"], alert["acted_at_s"] is not None) == ("throttle", True)
        assert on(two_nodes, SECOND), "what runs there stays"
        drill.says(SECOND, temperature_c=40)
        until_health(two_nodes, "healthy")


class TestLeases:
    def test_a_stranger_with_reflection_alone_borrows_and_returns(self, two_nodes: LiveCluster) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{two_nodes.grpc_port}") as channel:
            granted = call(channel, "AcquireGpuLease", client="test", model_name="x", vram_estimate_mb=512)
            assert granted["granted"], granted
            listed = call(channel, "ListGpuLeases")["leases"]
            assert [lease["lease_id"] for lease in listed] == [granted["lease_id"]]
            assert two_nodes.get("/v1/leases").json()["leases"][0]["lease_id"] == granted["lease_id"]
            hold = {"client": "test", "lease_id": granted["lease_id"], "epoch": int(granted["epoch"])}
            assert call(channel, "ReleaseGpuLease", **hold)["released"]
        assert two_nodes.get("/v1/leases").json()["leases"] == []

    def test_a_program_runs_inside_one_and_is_measured(self, two_nodes: LiveCluster) -> None:
        program = "import os, time; held = bytearray(os.urandom(1 << 20) * 200); time.sleep(20)"
        command = (sys.executable, "-c", program)
        with two_nodes.beside(
            "lease", "run", "--vram", "512MB", "--ttl", "10s", "--priority", "5", "--server",
            f"127.0.0.1:{two_nodes.grpc_port}", "--", *command,
        ) as running:  # fmt: skip
            seen = eventually(lambda: leased_bytes(two_nodes, at_least=200 << 20), deadline_s=30, what="its bytes")
            assert seen < 512 * 10**6
            assert running.wait(60) == 0
        eventually(lambda: two_nodes.get("/v1/leases").json()["leases"] == [], deadline_s=15, what="no lease left")


class TestQuarantine:
    def test_an_uncorrectable_error_empties_the_device_without_a_failed_request_until_a_probe_passes(
        self, two_nodes: LiveCluster, drill: Drill
    ) -> None:
        num_replicas = len(on(two_nodes, SECOND)) + len(on(two_nodes, "head/host"))
        with Traffic(two_nodes.url, "mini", num_clients=2) as asked:
            drill.says(SECOND, ecc_uncorrected=1)
            until_health(two_nodes, "quarantined", deadline_s=20)
            lifted = two_nodes.headroom("uncordon", SECOND, "--address", two_nodes.url)
            assert "quarantine" in lifted.out, "no person lifts a quarantine"
            eventually(lambda: not on(two_nodes, SECOND), deadline_s=MOVED_S, what=f"{SECOND} empty")
        assert set(asked.statuses) == {200}
        assert len(on(two_nodes, "head/host")) == num_replicas
        (alert,) = alerts(two_nodes, "ECC_UNCORRECTABLE")
        if alert["acted_at_s"]:  # its cause may be over sooner
            print(f"uncorrectable error to empty device: {alert['acted_at_s'] - alert['fired_at_s']:.1f} s")  # noqa: T201
        until_health(two_nodes, "healthy", deadline_s=90)
        assert len(alerts(two_nodes, "ECC_UNCORRECTABLE")) == 1, "one error is answered for once"
        assert "ECC_UNCORRECTABLE" in two_nodes.headroom("alerts", "--address", two_nodes.url).out


class TestSilence:
    def test_a_device_that_cannot_be_read_is_lost_and_comes_back_by_a_probe(
        self, two_nodes: LiveCluster, drill: Drill
    ) -> None:
        drill.says(SECOND, silence="fell off the bus")
        until_health(two_nodes, "lost", deadline_s=20)
        assert two_nodes.headroom("gpus", "--once", "--address", two_nodes.url).out.count("fell off the bus") >= 1
        drill.over()
        until_health(two_nodes, "healthy", deadline_s=60)


@pytest.mark.slow
class TestPreempt:
    def test_a_job_on_a_device_of_too_much_power_goes_on_elsewhere_from_its_last_checkpoint(
        self, two_nodes: LiveCluster, drill: Drill
    ) -> None:
        at = ("--address", two_nodes.url)
        assert two_nodes.headroom("models", "sleep", "small", *at, timeout_s=150).code == 0  # room for it on the head
        two_nodes.headroom("cordon", "head/host", *at)  # so that the job begins on the other node
        done = two_nodes.headroom(
            *("jobs", "submit", "train", "--model", "mini", "--steps", "1000", "--set", "save_every=100", "--json"), *at
        )
        job_id = json.loads(done.out)["id"]
        first = eventually(
            lambda: job(two_nodes, job_id, node="second", at_step=260), deadline_s=120, what="its first checkpoint"
        )
        two_nodes.headroom("uncordon", "head/host", *at)
        drill.says(SECOND, power_w=999, power_limit_w=400)
        again = eventually(
            lambda: job(two_nodes, job_id, node="head", at_step=first["step"]), deadline_s=120, what="it on the head"
        )
        (alert,) = alerts(two_nodes, "POWER_CRITICAL")
        assert alert["action"] == "preempt"
        assert (again["attempt"], Path(again["resume_from"]).name) == (2, "checkpoint-250")
        assert two_nodes.headroom("jobs", "cancel", job_id, *at).code == 0
        drill.over()
        until_health(two_nodes, "healthy")
        assert two_nodes.headroom("models", "wake", "small", *at, timeout_s=150).code == 0


@pytest.mark.slow
class TestRoom:
    def test_idle_models_make_room_for_one_that_is_asked_for(self, two_nodes: LiveCluster) -> None:
        done = two_nodes.headroom("models", "sleep", "small", "--address", two_nodes.url, timeout_s=150)
        assert done.code == 0, done.err
        leases = list(all_the_room(two_nodes))
        shown = two_nodes.headroom("gpus", "--once", "--address", two_nodes.url).out
        eventually(lambda: idle_s(two_nodes, "mini") > IDLE_AFTER_S, deadline_s=30, what="mini idle")
        with httpx.Client(base_url=two_nodes.url, trust_env=False, timeout=120) as http:
            answer = post_chat(http, {"model": "small", "messages": user("What is 3 + 4?"), "max_tokens": 4})
            assert answer.status_code == 200, answer.text
            mini = eventually(lambda: asleep(two_nodes, "mini"), deadline_s=60, what=f"mini asleep: {shown}")
            assert "made room for 'small'" in mini["reason"]
            for lease in leases:
                hold = {"client": "test", "epoch": lease["epoch"]}
                path = f"/v1/leases/{lease['lease_id']}"
                assert http.request("DELETE", path, json=hold).status_code == 200
            answer = post_chat(http, {"model": "mini", "messages": user("What is 3 + 4?"), "max_tokens": 4})
            assert answer.status_code == 200, answer.text
        two_nodes.wait_for_health("ok", deadline_s=120)


@pytest.mark.slow
class TestNodeLost:
    def test_what_ran_there_runs_elsewhere(self, two_nodes: LiveCluster) -> None:
        put_on_second(two_nodes)
        num_replicas = len(on(two_nodes, SECOND)) + len(on(two_nodes, "head/host"))
        raylet = below_second(two_nodes, "raylet/raylet")
        with Traffic(two_nodes.url, "small", num_clients=1) as undisturbed:
            raylet.kill()
            eventually(
                lambda: num_ready(two_nodes, on(two_nodes, "head/host")) == num_replicas,
                deadline_s=MOVED_S,
                what="every replica on the head",
            )
        assert set(undisturbed.statuses) == {200}
        assert SECOND not in devices(two_nodes)


def all_the_room(cluster: LiveCluster) -> Iterator[dict[str, Any]]:
    """Leases until nothing is left that an engine could take."""
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=20) as http:
        size_mb = 16_000
        while size_mb >= 200:
            asked = {"client": "test", "model_name": "x", "vram_estimate_mb": size_mb, "ttl_seconds": 300}
            answer = http.post("/v1/leases", json=asked)
            if answer.status_code == 201:
                yield answer.json()
            else:
                assert error_of(answer)["code"] in ("no_room", "too_large"), answer.text
                size_mb //= 2


def asleep(cluster: LiveCluster, model: str) -> dict[str, Any]:
    told: dict[str, Any] = cluster.health()["models"][model]
    return told if told["status"] == "asleep" else {}


def idle_s(cluster: LiveCluster, model: str) -> float:
    rows = cluster.get("/models/info").json()["models"]
    return next(float(row["idle_s"]) for row in rows if row["id"] == model)


def num_ready(cluster: LiveCluster, names: list[str]) -> int:
    holders = devices(cluster)["head/host"]["holders"]
    return sum(one["name"] in names and one["state"] == "ready" for one in holders)


def leased_bytes(cluster: LiveCluster, *, at_least: int) -> int:
    """Measured bytes of leases on any device; 0 while they are fewer than `at_least`."""
    held = [one for device in devices(cluster).values() for one in device["holders"] if one["kind"] == "leased"]
    measured = sum(one["measured_bytes"] or 0 for one in held)
    return measured if measured >= at_least else 0


def last_poll_s(cluster: LiveCluster) -> float:
    lines = cluster.get("/metrics").text.splitlines()
    wanted = 'headroom_watch_last_poll_timestamp_seconds{node="second"}'
    return next((float(line.split()[-1]) for line in lines if line.startswith(wanted)), 0.0)


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def below_second(cluster: LiveCluster, words: str) -> psutil.Process:
    """The one process of the node that joined with these words in its title."""
    (found,) = [one for one in cluster.joined_processes() if words in title(one)]
    return found


def call(channel: grpc.Channel, rpc: str, **fields: Any) -> dict[str, Any]:
    """One call with nothing known but the service's name: every type comes by reflection."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("modelops.ModelOps").methods_by_name[rpc]
    asked = message_factory.GetMessageClass(method.input_type)(**fields)
    answered = message_factory.GetMessageClass(method.output_type)
    answer = channel.unary_unary(
        f"/modelops.ModelOps/{rpc}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answered.FromString,
    )(asked, timeout=10)
    told: dict[str, Any] = json_format.MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return told
