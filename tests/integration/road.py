"""From training to tokens as a story that can be watched: two Ray nodes on one machine, real engines, a real client.

A weak model serves and is trained on; the better checkpoint is compared and goes live by itself, under load; a broken
one is refused, and garbage that loads is sent back. `python -m tests.integration.road` tells it, a test checks it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from serve_app.ops.drills_checkpoints import DrillCheckpoint, make_drill_checkpoint
from serve_app.training.deployed import read_deployed
from tests.integration.asking import user
from tests.integration.default_models import ROOT, copy_models
from tests.integration.live_cluster import LiveCluster, short_home
from tests.integration.traffic import Traffic
from tests.integration.waiting import eventually

MODEL: Final = "mini"
TRAINER: Final = "trainer"
STEPS: Final = 150
_GB: Final = 10**9
_JOB_S: Final = 420.0
_ROLLOUT_S: Final = 480.0


@dataclass(slots=True)
class Road:
    """What was seen on the way."""

    accuracy_before: float = 0.0
    accuracy_after: float = 0.0
    job: dict[str, Any] = field(default_factory=dict)
    spans: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the trace of the job, by name."""
    rollout: dict[str, Any] = field(default_factory=dict)
    origin: list[dict[str, Any]] = field(default_factory=list)
    """Of an answer of the new weights: what `headroom why` tells, from the answer to the job that trained them."""
    refused: str = ""
    garbage: dict[str, Any] = field(default_factory=dict)
    num_requests: int = 0
    num_failed: int = 0
    texts: dict[str, set[str]] = field(default_factory=dict)
    """By weights version, what it said to the one question."""


def config() -> str:
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    args = document["applications"][0]["args"]
    args["models"] = [args["models"][0]]
    args["modes"] = {"fast": {**args["modes"]["fast"], "candidates": [MODEL]}}
    args["rollouts"] = {"auto": True, "canary_s": 8.0, "observe_s": 10.0}
    return str(yaml.safe_dump(document, sort_keys=False))


@contextmanager
def two_nodes() -> Iterator[LiveCluster]:
    """The head serves, the other node trains and scores."""
    home = short_home()
    copy_models(home, (MODEL,))
    cluster = LiveCluster(config(), home=home, memory="7GB", role="inference")
    try:
        cluster.wait_for_health("ok")
        cluster.join(TRAINER, memory_bytes=6 * _GB, role="training")
        eventually(
            lambda: any(one["node"] == TRAINER for one in cluster.fleet()["devices"]),
            deadline_s=90,
            what="the training node in the plan",
        )
        yield cluster
    finally:
        cluster.stop()


def travelled(cluster: LiveCluster, say: Callable[[str], None]) -> Road:
    """The whole story; `say` hears of each step."""
    road = Road()
    road.accuracy_before = accuracy(cluster)
    say(f"{MODEL} serves with {road.accuracy_before:.1%} of its test set, asked through the live API")
    with Traffic(cluster.url, MODEL, num_clients=2, pause_s=0.1) as traffic:
        road.job = trained(cluster, say)
        road.spans = traced(cluster, say, road.job["trace_id"])
        road.rollout = rolled_out(cluster, say, step=2 * STEPS)
        road.origin = origin(cluster, say)
        road.refused = broken_is_refused(cluster, say)
        road.garbage = garbage_goes_back(cluster, say)
        answers = traffic.answers
    road.num_requests, road.num_failed = len(answers), sum(answer.status != 200 for answer in answers)
    for answer in answers:
        if answer.status == 200:
            road.texts.setdefault(answer.weights, set()).add(answer.text)
    road.accuracy_after = accuracy(cluster)
    say(f"{MODEL} serves with {road.accuracy_after:.1%} of its test set")
    mixed = sum(len(texts) - 1 for texts in road.texts.values())
    say(f"{road.num_requests} requests meanwhile: {road.num_failed} failed, {mixed} answers of mixed weights")
    return road


def trained(cluster: LiveCluster, say: Callable[[str], None]) -> dict[str, Any]:
    job = asked(
        cluster,
        "jobs",
        "submit",
        "train",
        "--model",
        MODEL,
        "--steps",
        str(STEPS),
        "--set",
        f"save_every={STEPS}",
        "--json",
    )
    say(f"{job['id']} trains {MODEL} on by {STEPS} steps")

    def over() -> dict[str, Any]:
        now = asked(cluster, "jobs", "show", job["id"], "--json")
        return now if now["state"] in ("succeeded", "failed", "cancelled") else {}

    done = eventually(over, deadline_s=_JOB_S, what="the end of the training job")
    say(f"{done['state']} on node {done['node']}: {done['message']}")
    return done


def traced(cluster: LiveCluster, say: Callable[[str], None], trace_id: str) -> dict[str, dict[str, Any]]:
    """The spans of one trace, as kept by the processes of both nodes."""

    def kept() -> dict[str, dict[str, Any]]:
        done = cluster.headroom("traces", trace_id, "--json")
        spans = {one["name"]: one for one in json.loads(done.out)["spans"]} if done.code == 0 else {}
        return spans if "job.settle" in spans else {}

    spans = eventually(kept, deadline_s=30, what=f"the trace {trace_id} of the job")
    say(cluster.headroom("traces", trace_id).out.rstrip())
    return spans


def rolled_out(cluster: LiveCluster, say: Callable[[str], None], *, step: int) -> dict[str, Any]:
    """Nobody asks for it: comparison finds the checkpoint better, and it is rolled out."""

    def over() -> dict[str, Any]:
        page = cluster.get("/v1/rollouts").raise_for_status().json()["rollouts"]
        mine = [one for one in page if one["checkpoint_step"] == step]
        return mine[0] if mine and mine[0]["status"] in ("finished", "returned", "refused") else {}

    done = eventually(over, deadline_s=_ROLLOUT_S, what=f"the end of the rollout of step {step}")
    say(cluster.headroom("rollouts", "show", str(done["deployment_id"]), "--address", cluster.url).out.rstrip())
    return done


def origin(cluster: LiveCluster, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Of one more answer, followed back as its reader would."""
    body = {"model": MODEL, "messages": user("What is 3 + 4?"), "temperature": 0}
    answer = httpx.post(f"{cluster.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    trace_id = answer.raise_for_status().headers["x-trace-id"]

    def followed() -> list[dict[str, Any]]:
        done = cluster.headroom("why", trace_id, "--json", "--address", cluster.url)
        steps: list[dict[str, Any]] = json.loads(done.out)["steps"] if done.code == 0 else []
        return steps

    steps = eventually(followed, deadline_s=30, what=f"the origin of the answer with trace {trace_id}")
    say(f"where an answer of the new weights comes from, `headroom why {trace_id}`")
    say(cluster.headroom("why", trace_id, "--address", cluster.url).out.rstrip())
    return steps


def broken_is_refused(cluster: LiveCluster, say: Callable[[str], None]) -> str:
    folder = cluster.home / "models" / MODEL
    make_drill_checkpoint(DrillCheckpoint.FLIPPED_BYTE, serving(folder), folder=folder, step=9_001)
    done = cluster.headroom(
        *("rollouts", "deploy", MODEL, "--checkpoint", "checkpoint-9001", "--address", cluster.url), timeout_s=60
    )
    sentence = (done.out + done.err).strip()
    say(f"one byte of a checkpoint is flipped, and it is asked for: {sentence}")
    assert done.code != 0, sentence
    return sentence


def garbage_goes_back(cluster: LiveCluster, say: Callable[[str], None]) -> dict[str, Any]:
    """Whole and safe files, so that only their answers give them away. A person asks for them all the same."""
    folder = cluster.home / "models" / MODEL
    made = make_drill_checkpoint(DrillCheckpoint.GARBAGE, serving(folder), folder=folder, step=9_002)
    say(f"{made.name} has weights that load and talk garbage; it is compared, and then deployed by hand")

    def begun() -> bool:
        done = cluster.headroom("rollouts", "deploy", MODEL, "--checkpoint", made.name, "--address", cluster.url)
        return done.code == 0

    eventually(begun, deadline_s=_JOB_S, what="the garbage compared, and its rollout begun")
    return rolled_out(cluster, say, step=9_002)


def serving(folder: Path) -> Path:
    found = read_deployed(folder)
    assert found is not None, f"nothing is named as serving in {folder}"
    return found


def accuracy(cluster: LiveCluster) -> float:
    done = cluster.headroom("eval", MODEL, "--base-url", f"{cluster.url}/v1", "--json", timeout_s=180)
    assert done.code == 0, done.out + done.err
    return float(json.loads(done.out)["total"]["accuracy"])


def asked(cluster: LiveCluster, *words: str) -> dict[str, Any]:
    done = cluster.headroom(*words, "--address", cluster.url)
    assert done.code == 0, done.out + done.err
    told: dict[str, Any] = json.loads(done.out)
    return told


def main() -> int:
    began_s = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began_s:5.0f} s] {re.sub(chr(10), chr(10) + ' ' * 10, text)}\n")
        sys.stdout.flush()

    say("two Ray nodes come up on this machine: the head serves, the other trains")
    with two_nodes() as cluster:
        travelled(cluster, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
