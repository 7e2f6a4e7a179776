"""What dies under load, and what it may cost: the model concerned answers 503 at worst, the others lose nothing.

Destructive: runs after everything that only asks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import openai
import psutil
import pytest

from tests.integration.asking import ENDLESS, user
from tests.integration.live_cluster import LiveCluster, lives
from tests.integration.traffic import Traffic
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MODELS = ("mini", "small", "base")
BACK_S = 150.0
"""Deadline on any machine; the promise is 60 s on two quiet cores, and the time is printed."""
CONTROLLER = "ray::ServeReplica:headroom:controller"


@contextlib.contextmanager
def traffic_on_all(cluster: LiveCluster) -> Iterator[dict[str, Traffic]]:
    """Every model under load, each answering already."""
    with contextlib.ExitStack() as stack:
        loads = {model: stack.enter_context(Traffic(cluster.url, model)) for model in MODELS}
        for model, load in loads.items():
            wait_for_answers(load, since_s=0, deadline_s=30, what=f"of {model}")
        yield loads


def wait_for_answers(load: Traffic, *, since_s: float, deadline_s: float, what: str) -> None:
    """Some questions asked after `since_s` have good answers."""
    try:
        eventually(lambda: load.num_good_since(since_s) > 3, deadline_s=deadline_s, what=f"answers {what}")
    except AssertionError as late:
        raise AssertionError(f"{late}; {load.statuses}; the last: {load.answers[-3:]}") from None


def kill(process: psutil.Process) -> float:
    """SIGKILL, and when."""
    process.kill()
    return time.monotonic()


def wait_until_back(cluster: LiveCluster, load: Traffic, *, since_s: float, what: str) -> None:
    """The model answers requests that were asked after the kill, and every page says so."""
    wait_for_answers(load, since_s=since_s, deadline_s=BACK_S, what=f"after {what}")
    print(f"{what}: answering again after {time.monotonic() - since_s:.1f} s")  # noqa: T201 - the measured figure
    cluster.wait_for_health("ok", deadline_s=30)


def assert_nothing_lost(load: Traffic) -> None:
    assert set(load.statuses) == {200}, [answer for answer in load.answers if answer.status != 200][:3]


def assert_clean(load: Traffic) -> None:
    """Good answers and 503s only: never a 500, never a cut connection."""
    assert set(load.statuses) <= {200, 503}, [answer for answer in load.answers if answer.status not in (200, 503)][:3]


def assert_booked_once(cluster: LiveCluster) -> None:
    """Each slot of the plan has one holder, and each holder one engine core."""

    def settled() -> bool:
        (device,) = cluster.fleet()["devices"]
        shares = [one for one in device["holders"] if one["kind"] == "replica"]
        names = [one["name"] for one in shares]
        measured = all(one["measured_bytes"] for one in shares)
        return measured and len(names) == len(set(names)) == len(MODELS) and device["passes"]

    eventually(settled, deadline_s=30, what="every slot with one holder")
    assert sorted(tenures(cluster)) == sorted(MODELS)


def tenures(cluster: LiveCluster) -> list[str]:
    """The model of every engine core that lives below the cluster."""
    cores = [one for one in cluster.processes() if "EngineCore" in " ".join(one.cmdline())]
    by_replica = {cluster.replica(model).pid: model for model in MODELS}
    return [by_replica[one.ppid()] for one in cores]


class TestEngineCoreKilled:
    def test_only_its_own_model_notices_and_it_comes_back_without_an_orphan(
        self, cluster: LiveCluster, client: openai.OpenAI
    ) -> None:
        core, replica = cluster.engine_core("mini"), cluster.replica("mini")
        family = [replica, *replica.children(recursive=True)]
        with traffic_on_all(cluster) as loads:
            stream = client.chat.completions.create(
                model="mini", messages=user("Go on."), n=8, max_tokens=480, stream=True, extra_body=ENDLESS
            )
            next(stream)
            killed_s = kill(core)
            with pytest.raises(openai.APIError, match="engine of 'mini' went away in the middle"):
                list(stream)
            wait_until_back(cluster, loads["mini"], since_s=killed_s, what="engine core of mini killed")
        assert_clean(loads["mini"])
        assert_nothing_lost(loads["small"])
        assert_nothing_lost(loads["base"])
        assert not [one for one in family if lives(one)], "an orphan of the old replica"
        assert_booked_once(cluster)

    def test_a_mode_goes_on_with_its_next_candidate(self, cluster: LiveCluster) -> None:
        with Traffic(cluster.url, "fast") as load:
            wait_for_answers(load, since_s=0, deadline_s=30, what="in the mode fast")
            killed_s = kill(cluster.engine_core("mini"))
            wait_for_answers(load, since_s=killed_s, deadline_s=20, what="in the mode fast")
            assert "small" in {answer.model for answer in load.answers if answer.began_s > killed_s}
        assert_clean(load)
        with Traffic(cluster.url, "mini") as again:  # "ok" may be what was so before anybody noticed
            wait_until_back(cluster, again, since_s=killed_s, what="engine core of mini killed under its mode")


class TestReplicaKilled:
    def test_only_its_own_model_notices_and_its_engine_core_goes_too(self, cluster: LiveCluster) -> None:
        replica = cluster.replica("small")
        family = [replica, *replica.children(recursive=True)]
        with traffic_on_all(cluster) as loads:
            killed_s = kill(replica)
            wait_until_back(cluster, loads["small"], since_s=killed_s, what="replica of small killed")
        assert_clean(loads["small"])
        assert_nothing_lost(loads["mini"])
        assert_nothing_lost(loads["base"])
        assert not [one for one in family if lives(one)], "an orphan of the old replica"
        assert_booked_once(cluster)


class TestControllerKilled:
    def test_no_request_is_lost_and_it_comes_back(self, cluster: LiveCluster) -> None:
        engines = {cluster.engine_core(model).pid for model in MODELS}
        controller = cluster.process_titled(CONTROLLER)
        with traffic_on_all(cluster) as loads:
            killed_s = kill(controller)
            eventually(
                lambda: cluster.health().get("status") == "ok" and not lives(controller),
                deadline_s=BACK_S,
                what="health after the controller was killed",
            )
            print(f"controller killed: health ok again after {time.monotonic() - killed_s:.1f} s")  # noqa: T201
            for model, load in loads.items():
                wait_for_answers(load, since_s=time.monotonic(), deadline_s=20, what=f"of {model}")
        for load in loads.values():
            assert_nothing_lost(load)
        assert {cluster.engine_core(model).pid for model in MODELS} == engines, "no engine was disturbed"
        assert_booked_once(cluster)
