"""The servers that are compared: our address and vLLM's own server on the same checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from placement.inventory import DeviceKind
from serve_app.config.load import load_cluster
from serve_app.engines.environment import engine_environment
from serve_app.engines.protocol import EngineLaunch
from serve_app.engines.spec import EngineArguments
from tests.bench.server_process import free_port
from tests.bench.service import Command, Service, ServiceFailed, answers_200

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "bench-results"
MODEL = "mini"
"""The compared one; the product serves all of `MODELS`."""
PROGRAMS = Path(sys.executable).parent
MODELS = ("mini", "small", "base")
_LEFT_BY_RUNS = ("ray", "run", "state", "traces")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What an engine of the compared model is started with; the same for every server."""

    checkpoint: Path
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_bytes: int

    def variables(self) -> dict[str, str]:
        """The very variables the product starts its engines with."""
        return engine_environment(
            EngineLaunch(
                model=MODEL,
                checkpoint=self.checkpoint,
                arguments=EngineArguments(
                    dtype=self.dtype,
                    max_model_len=self.max_model_len,
                    max_num_seqs=self.max_num_seqs,
                    tensor_parallel=1,
                ),
                kv_cache_bytes=self.kv_cache_bytes,
                device_kind=DeviceKind.HOST,
            )
        )

    def arguments(self) -> list[str]:
        """vLLM's flags for what the model is; no flag for how the server behaves."""
        return [
            *("--served-model-name", MODEL, "--dtype", self.dtype, "--max-model-len", str(self.max_model_len)),
            *("--max-num-seqs", str(self.max_num_seqs), "--kv-cache-memory-bytes", str(self.kv_cache_bytes)),
            *("--gpu-memory-utilization", "0.01", "--load-format", "safetensors", "--enforce-eager"),
        ]


def prepare_home(home: Path) -> None:
    """A home of the bench's own, as new but for its models: those the user has already are not trained again."""
    home.mkdir(parents=True, exist_ok=True)
    for name in _LEFT_BY_RUNS:
        shutil.rmtree(home / name, ignore_errors=True)
    users = Path(os.environ.get("HEADROOM_HOME", "~/.headroom")).expanduser() / "models"
    for name in MODELS:
        if (users / name).is_dir() and not (home / "models" / name).exists():
            shutil.copytree(users / name, home / "models" / name, symlinks=True)


def our_command(home: Path, *, config: Path = REPOSITORY / "cluster.yaml") -> Command:
    """`headroom up` with the repository's own `cluster.yaml` on a free port. Ready when every model serves."""
    port = free_port()
    text = config.read_text().replace("port: 8000", f"port: {port}")
    assert f"port: {port}" in text
    own = home / "cluster.yaml"
    own.write_text(text)
    return Command(
        name="headroom",
        arguments=[
            *(str(PROGRAMS / "headroom"), "up", str(own)),
            *("--ray-port", str(free_port()), "--dashboard-port", str(free_port())),
        ],
        variables={"HEADROOM_HOME": str(home)},
        url=f"http://127.0.0.1:{port}",
        ready=_all_models_serve,
        log=home / "up.log",
    )


def ray_variables(ours: Service) -> dict[str, str]:
    """What a program needs in its environment to talk to the cluster of our service: those of `serve run`."""
    for process in ours.process.children():
        variables = process.environ()
        if "RAY_ADDRESS" in variables:
            return {name: value for name, value in variables.items() if name.startswith("RAY_")}
    raise ServiceFailed("`headroom up` has no child that knows the cluster's address")


def engine_of(home: Path) -> Engine:
    """The compared model's engine as the plan for `home`'s configuration has it."""
    from serve_app.commands.plan import make_plan

    os.environ["HEADROOM_HOME"] = str(home)
    cluster = load_cluster(home / "cluster.yaml")
    plan, _ = make_plan(cluster)
    placement = next(one for one in plan.placements if one.model == MODEL)
    model = next(one for one in cluster.settings.models if one.id == MODEL)
    kv_cache = next(part.num_bytes for part in placement.estimate.parts if part.name == "kv_cache")
    return Engine(
        checkpoint=(home / "models" / MODEL / "deployed").resolve(),
        dtype=model.dtype,
        max_model_len=model.max_model_len,
        max_num_seqs=model.max_num_seqs,
        kv_cache_bytes=kv_cache,
    )


def vllm_command(engine: Engine, *, log: Path) -> Command:
    """vLLM's own server with the product's engine variables; no statistics and no access log, as ours has none."""
    quiet = ["--disable-log-stats", "--disable-uvicorn-access-log"]
    return _vllm("vLLM", engine.checkpoint, [*engine.arguments(), *quiet], engine.variables(), log=log)


def vllm_as_user_command(engine: Engine, *, log: Path) -> Command:
    """The same as a user would start it: vLLM's own defaults for threads, processes, statistics and logs."""
    return _vllm("vLLM, its defaults", engine.checkpoint, engine.arguments(), {"HF_HUB_OFFLINE": "1"}, log=log)


def _vllm(name: str, checkpoint: Path, arguments: list[str], variables: dict[str, str], *, log: Path) -> Command:
    port = free_port()
    # Not `vllm serve`: vLLM's CPU build has no such command, its package being named otherwise.
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command = [*module, "--model", str(checkpoint), "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    return Command(
        name=name, arguments=[*command, *arguments], variables=variables, url=url, ready=answers_200("/health"), log=log
    )


def _all_models_serve(url: str) -> bool:
    try:
        health: dict[str, Any] = httpx.get(f"{url}/health", timeout=5).json()
    except (httpx.HTTPError, json.JSONDecodeError):
        return False
    models = health.get("models") or {}
    return len(models) == len(MODELS) and all(one["status"] == "ready" for one in models.values())
