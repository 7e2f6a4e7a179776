"""The two that are compared, each a cluster of its own on this machine: plain Ray Serve, and `headroom up`."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.bench.ray_serve_llm import own_ray_variables
from tests.bench.server_process import free_port
from tests.bench.servers import PROGRAMS, REPOSITORY
from tests.bench.service import Command, answers_200, running
from tests.integration.default_models import copy_models
from tests.integration.live_cluster import LiveCluster, lives, short_home

MODEL = "mini"
NUM_SEQS = 64
NUM_REPLICAS = 2
_CODE = {"PYTHONPATH": str(REPOSITORY)}
"""This checkout's, also where an installed one is another."""
_MEMORY = "7GB"
_KV_CACHE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """`num_ready` says how many engines serve now, 0 while nothing answers; `front` finds what a request passes."""

    name: str
    url: str
    processes: Callable[[], list[psutil.Process]]
    num_ready: Callable[[], int]
    front: tuple[str, ...]

    def titled(self, *parts: str) -> list[psutil.Process]:
        """Living processes with any of these in their command line."""
        return [one for one in self.processes() if any(part in title(one) for part in parts)]

    def cores(self) -> list[psutil.Process]:
        return self.titled("EngineCore")

    def replicas(self) -> list[psutil.Process]:
        """Those that have an engine core."""
        parents = [one.parent() for one in self.cores()]
        return [one for one in parents if one is not None and "ServeReplica" in title(one)]

    def is_serving(self) -> bool:
        return self.num_ready() == NUM_REPLICAS

    def is_whole(self) -> bool:
        return self.is_serving() and len(self.cores()) == NUM_REPLICAS

    def front_bytes(self) -> int:
        """Resident memory of all that a request passes before its engine core."""
        total = 0
        for one in self.titled(*self.front):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        return total


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextlib.contextmanager
def plain_serve(
    engine: Mapping[str, Any], *, num_replicas: int = NUM_REPLICAS, num_seqs: int = NUM_SEQS
) -> Iterator[Side]:
    """`serve run` of the base in a Ray of its own, with Serve's default proxy."""
    folder = Path(tempfile.mkdtemp(prefix="pl-"))
    port = free_port()
    config = folder / "plain.json"  # JSON is YAML
    application = {
        "name": "plain",
        "route_prefix": "/",
        "import_path": "tests.bench.faults.plain_serve:build",
        "args": {"engine": dict(engine), "num_replicas": num_replicas, "num_seqs": num_seqs},
    }
    options = {"host": "127.0.0.1", "port": port}
    config.write_text(json.dumps({"http_options": options, "applications": [application]}))
    command = Command(
        name="plain Ray Serve",
        arguments=[str(PROGRAMS / "serve"), "run", "--address", "local", str(config)],
        variables={**own_ray_variables(folder), **_CODE},
        url=f"http://127.0.0.1:{port}",
        ready=answers_200("/replica"),
        log=folder / "serve.log",
        ready_within_s=400,
    )
    try:
        with running(command) as service:
            yield Side(
                name=service.name,
                url=service.url,
                processes=lambda: [one for one in service.process.children(recursive=True) if lives(one)],
                num_ready=lambda: _num_answering(service.url),
                front=("ray::ProxyActor", "ray::ServeReplica"),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def plain_serve_of_vllm() -> Iterator[Side]:
    home = short_home()
    copy_models(home, (MODEL,))
    checkpoint = (home / "models" / MODEL / "deployed").resolve()
    engine = {"kind": "vllm", "checkpoint": str(checkpoint), "dtype": "float32", "max_model_len": 512}
    try:
        with plain_serve({**engine, "max_num_seqs": NUM_SEQS, "kv_cache_bytes": _KV_CACHE_BYTES}) as side:
            yield side
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def headroom() -> Iterator[Side]:
    """`headroom up` of the shipped `cluster.yaml` with one model on two replicas, and two gateways."""
    home = short_home()
    copy_models(home, (MODEL,))
    cluster = LiveCluster(_config(), home=home, memory=_MEMORY, environment=_CODE)

    def num_ready() -> int:
        models = cluster.health().get("models") or {}
        return int(models[MODEL]["num_ready"]) if MODEL in models else 0

    try:
        cluster.wait_for_health("ok")
        yield Side(
            name="Headroom",
            url=cluster.url,
            processes=cluster.processes,
            num_ready=num_ready,
            front=("haproxy", "ray::ServeReplica:headroom:gateway", f"ray::ServeReplica:{MODEL}@"),
        )
    finally:
        cluster.stop()


def _config() -> str:
    document = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())
    args = document["applications"][0]["args"]
    args["models"] = [{**args["models"][0], "replicas": NUM_REPLICAS, "kv_cache_bytes": _KV_CACHE_BYTES}]
    args["modes"] = {"fast": {**args["modes"]["fast"], "candidates": [MODEL]}}
    args["gateway"] = {**args["gateway"], "replicas": 2}
    return str(yaml.safe_dump(document, sort_keys=False))


def _num_answering(url: str) -> int:
    """Of the base: different processes among enough answers."""
    try:
        return len({httpx.get(f"{url}/replica", timeout=5, trust_env=False).raise_for_status().text for _ in range(12)})
    except httpx.HTTPError:
        return 0
