"""`ray.serve.llm` as a peer: the same checkpoint and engine settings, in a Ray of its own on free ports."""

from __future__ import annotations

import json
import secrets
import tempfile
from pathlib import Path

from tests.bench.server_process import free_port
from tests.bench.servers import MODEL, Engine
from tests.bench.service import Command, answers_a_chat

_FIRST = {"model": MODEL, "messages": [{"role": "user", "content": "1+1"}], "max_tokens": 2}


def ray_serve_llm_command(engine: Engine, *, programs: Path, log: Path, haproxy: bool) -> Command:
    """`serve run` starts Ray itself. Below a short directory of its own, because Ray puts sockets there."""
    folder = Path(tempfile.mkdtemp(prefix="peer-"))
    port = free_port()
    config = folder / "llm.json"  # JSON is YAML
    config.write_text(json.dumps(_serve_config(engine, port)))
    return Command(
        name="ray.serve.llm, HAProxy" if haproxy else "ray.serve.llm",
        arguments=[str(programs / "serve"), "run", "--address", "local", str(config)],
        variables={**own_ray_variables(folder), **(_haproxy_variables(folder) if haproxy else {})},
        url=f"http://127.0.0.1:{port}",
        ready=answers_a_chat("/v1/chat/completions", json.dumps(_FIRST).encode()),
        log=log,
        ready_within_s=400,
    )


def _serve_config(engine: Engine, port: int) -> dict[str, object]:
    llm = {
        "model_loading_config": {"model_id": MODEL, "model_source": str(engine.checkpoint)},
        "accelerator_config": {"kind": "cpu"},
        "deployment_config": {"num_replicas": 1, "max_ongoing_requests": 10_000},
        "engine_kwargs": {
            "dtype": engine.dtype,
            "max_model_len": engine.max_model_len,
            "max_num_seqs": engine.max_num_seqs,
            "kv_cache_memory_bytes": engine.kv_cache_bytes,
            "gpu_memory_utilization": 0.01,
            "load_format": "safetensors",
            "enforce_eager": True,
            "disable_log_stats": True,
        },
        "log_engine_metrics": False,
        "runtime_env": {"env_vars": engine.variables()},
        # Two cores are few: only the engine counts one.
        "placement_group_config": {"bundles": [{"CPU": 1}]},
    }
    application = {
        "name": "llm",
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {
            "llm_configs": [llm],
            "ingress_deployment_config": {
                "num_replicas": 1,
                "max_ongoing_requests": 10_000,
                "autoscaling_config": None,
                "ray_actor_options": {"num_cpus": 0},
            },
        },
    }
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [application],
    }


def own_ray_variables(folder: Path) -> dict[str, str]:
    """A token of its own, so that none is left in the user's home."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return {
        "RAY_ADDRESS": "local",
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }


def _haproxy_variables(folder: Path) -> dict[str, str]:
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy.state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }
