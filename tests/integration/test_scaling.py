"""A model under pressure gets another engine within its time, as far as the headroom goes, and gives it back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.integration.default_models import ROOT, copy_models
from tests.integration.live_cluster import LiveCluster, short_home
from tests.integration.traffic import Traffic
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

HOLD_S = 10.0
SCALED_S = 300.0
"""Row B10: within 5 minutes after the hold time ends."""
MEMORY = "5GB"
"""Has room above the headroom for two engines of 1.5 GB, not for three."""


def config() -> str:
    """The smallest model, two sequences at a time, with limits in a hurry."""
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    args = document["applications"][0]["args"]
    args["models"] = [{**args["models"][0], "max_num_seqs": 2}]
    args["modes"] = {"fast": {**args["modes"]["fast"], "candidates": ["mini"]}}
    args["scaling"] = {
        "cooldown_s": 5.0,
        "retry_s": 5.0,
        "engines": {
            "limits": {"mini": {"min_replicas": 1, "max_replicas": 6}},
            "queue": {"up": 4, "up_hold_s": HOLD_S, "down": 1, "down_hold_s": 20.0},
            "compute": {"up": None, "down": None},
        },
    }
    return str(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LiveCluster]:
    home = short_home()
    copy_models(home, ("mini",))
    cluster = LiveCluster(config(), home=home, memory=MEMORY)
    try:
        cluster.wait_for_health("ok")
        yield cluster
    finally:
        cluster.stop()


def decisions(cluster: LiveCluster) -> list[dict[str, Any]]:
    """Newest first."""
    told: list[dict[str, Any]] = cluster.get("/admin/scaling").raise_for_status().json()["decisions"]
    return told


def wait_for_replicas(cluster: LiveCluster, count: int, *, deadline_s: float) -> None:
    def reached() -> bool:
        model = cluster.health()["models"]["mini"]
        return bool(model["num_ready"] == count == model["num_wanted"])

    eventually(reached, deadline_s=deadline_s, what=f"{count} engine(s) that serve")


class TestPressure:
    def test_scales_up_to_the_headroom_and_down_again_and_loses_nothing(self, cluster: LiveCluster) -> None:
        with Traffic(cluster.url, "mini", num_clients=16, max_tokens=100) as pressure:
            began_s = time.monotonic()
            wait_for_replicas(cluster, 2, deadline_s=HOLD_S + SCALED_S)
            print(f"a second engine serves after {time.monotonic() - began_s:.0f} s")  # noqa: T201 - the measured figure
            blocked = eventually(
                lambda: [one for one in decisions(cluster) if one["outcome"] == "blocked_by_headroom"],
                deadline_s=HOLD_S + SCALED_S,
                what="a third engine to be refused",
            )
        assert "headroom" in blocked[0]["message"]
        assert (blocked[0]["target"], blocked[0]["to_replicas"]) == ("mini", 3)
        assert "headroom_scaling_decisions_total{" in cluster.get("/metrics").text
        with Traffic(cluster.url, "mini", num_clients=1, pause_s=0.2) as calm:
            wait_for_replicas(cluster, 1, deadline_s=HOLD_S + SCALED_S)
        for load in (pressure, calm):
            assert set(load.statuses) == {200}, [answer for answer in load.answers if answer.status != 200][:3]
