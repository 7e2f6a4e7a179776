"""New weights that serve already go back by themselves when what they run on fails: row C7, on real Ray."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from serve_app.rollout.triggers import TRIGGERS, TriggerKind
from serve_app.training.manifest import MANIFEST_NAME
from serve_app.training.writer import Origin, write_checkpoint
from tests.integration.default_models import ROOT, copy_models
from tests.integration.live_cluster import LiveCluster, short_home
from tests.integration.traffic import Traffic
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

BASE = "checkpoint-150"
HEAD = "head/host"


def config() -> str:
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    args = document["applications"][0]["args"]
    args["models"] = [args["models"][0]]
    args["modes"] = {"fast": {**args["modes"]["fast"], "candidates": ["mini"]}}
    args["rollouts"] = {"canary_s": 3.0, "observe_s": 600.0}
    return str(yaml.safe_dump(document, sort_keys=False))


def nearly_equal(models: Path, *, step: int) -> str:
    """A good checkpoint with other bytes: every number of the last norm is a little larger."""

    def fill(at: Path) -> None:
        shutil.copytree(models / BASE, at, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST_NAME))
        weights = load_file(at / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] * (1 + step / 100_000)
        save_file(weights, at / "model.safetensors", metadata={"format": "pt"})
        state = json.loads((at / "trainer_state.json").read_text())
        (at / "trainer_state.json").write_text(json.dumps({**state, "global_step": step}))

    origin = Origin(model="mini", step=step, config_hash="test", seed=1, created_at=datetime.now(UTC), parent=None)
    return write_checkpoint(models, origin, fill=fill).name


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("drill") / "signals.json"
    file.write_text("{}")
    return file


@pytest.fixture(scope="module")
def cluster(signals: Path) -> Iterator[LiveCluster]:
    home = short_home()
    copy_models(home, ("mini",))
    cluster = LiveCluster(config(), home=home, memory="8GB", environment={"HEADROOM_DRILL_SIGNALS": str(signals)})
    try:
        cluster.wait_for_health("ok")
        yield cluster
    finally:
        cluster.stop()


def observed(cluster: LiveCluster, checkpoint: str) -> dict[str, Any]:
    """Compared, asked for by hand, and serving."""
    at = ("--address", cluster.url)

    def begun() -> bool:
        return cluster.headroom("rollouts", "deploy", "mini", "--checkpoint", checkpoint, *at).code == 0

    eventually(begun, deadline_s=300, what=f"{checkpoint} compared, and its rollout begun")
    return eventually(lambda: latest(cluster, "observing"), deadline_s=240, what=f"{checkpoint} serving")


def latest(cluster: LiveCluster, status: str) -> dict[str, Any]:
    """Empty while it is in another."""
    newest: dict[str, Any] = cluster.get("/v1/rollouts").raise_for_status().json()["rollouts"][0]
    return newest if newest["status"] == status else {}


def gone_back(cluster: LiveCluster, kind: TriggerKind, *, since_s: float) -> dict[str, Any]:
    """Its record, once the old weights answer; prints how long it took, the finding of the fault included."""
    back = eventually(lambda: latest(cluster, "returned"), deadline_s=TRIGGERS[kind].within_s + 60, what="it returned")
    print(f"{kind.value}: old weights again after {time.monotonic() - since_s:.0f} s")  # noqa: T201 - the measured figure
    cluster.wait_for_health("ok", deadline_s=150)
    with Traffic(cluster.url, "mini") as after:
        eventually(lambda: after.num_good_since(0) > 3, deadline_s=60, what="answers")
    assert {one.weights for one in after.answers if one.status == 200} == {back["from_weights"]}
    return back


class TestTriggers:
    def test_a_device_that_is_too_hot(self, cluster: LiveCluster, signals: Path) -> None:
        observed(cluster, nearly_equal(cluster.home / "models" / "mini", step=160))
        signals.write_text(json.dumps({HEAD: {"temperature_c": 95}}))
        began_s = time.monotonic()
        try:
            back = gone_back(cluster, TriggerKind.TEMPERATURE_HIGH, since_s=began_s)
        finally:
            signals.write_text("{}")
        assert (back["trigger"], back["is_late"]) == ("temperature_high", False)

    def test_a_dead_worker(self, cluster: LiveCluster) -> None:
        observed(cluster, nearly_equal(cluster.home / "models" / "mini", step=170))
        cluster.engine_core("mini").kill()
        back = gone_back(cluster, TriggerKind.WORKER_DEAD, since_s=time.monotonic())
        assert (back["trigger"], back["is_late"]) == ("worker_dead", False)
