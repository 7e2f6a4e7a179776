"""Start the local cluster, wait until it serves, keep it until told to stop, leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serve_app.access.tls import pinned
from serve_app.errors import FleetUnready
from serve_app.ops.local_cluster import LocalCluster, environment, ray_start_command, serve_run_command
from serve_app.ops.process_custody import Custody, collect_zombies
from serve_app.ops.run_record import left_over

_POLL_S = 0.25
_GCS_TIMEOUT_S = 60.0
_SERVE_STOP_S = 10.0
_RAY_STOP_S = 3.0
"""Ray's own processes have nothing to save; what is left after this is killed."""
_TAIL_LINES = 15
_RAY_IS_UP = "Ray runtime started"
"""What `ray start` prints when every process of the node answers. Ports and sockets are there before that."""

Say = Callable[[str], None]


class Stopped(Exception):
    """SIGINT or SIGTERM arrived: the ordinary end of `headroom up`."""


@dataclass(frozen=True, slots=True)
class Running:
    ray: subprocess.Popen[bytes]
    serve: subprocess.Popen[bytes]


@contextmanager
def stop_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Stopped, once; during the clean-up a second one is ignored."""

    def stop(number: int, _frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def start(cluster: LocalCluster, custody: Custody) -> Running:
    """Ray first, then Serve on it. Raises FleetUnready with the end of the log when either ends early."""
    variables = {**os.environ, **environment(cluster)}
    ray_log, serve_log = cluster.run_dir / "ray.log", cluster.run_dir / "serve.log"
    ray = custody.start(ray_start_command(cluster), environment=variables, output=ray_log)
    deadline_s = time.monotonic() + _GCS_TIMEOUT_S
    while _RAY_IS_UP not in _text(ray_log):
        _still_runs(ray, "ray start", ray_log)
        if time.monotonic() > deadline_s:
            raise FleetUnready(f"Ray did not start within {_GCS_TIMEOUT_S:.0f} s; see {ray_log}.")
        time.sleep(_POLL_S)
    serve = custody.start(serve_run_command(cluster), environment=variables, output=serve_log)
    return Running(ray, serve)


def watch(cluster: LocalCluster, running: Running, url: str, on_change: Callable[[Mapping[str, Any]], None]) -> None:
    """Report each change of `GET /health` until one of the two programs ends. Never returns by itself."""
    seen: Mapping[str, Any] | None = None
    trust = True if cluster.certificate is None else pinned(cluster.certificate)
    with httpx.Client(timeout=5.0, verify=trust) as client:
        while True:
            _still_runs(running.ray, "ray start", cluster.run_dir / "ray.log")
            _still_runs(running.serve, "serve run", cluster.run_dir / "serve.log")
            collect_zombies()
            health = _health(client, url)
            if health is not None and health != seen:
                seen = health
                on_change(health)
            time.sleep(_POLL_S if seen is None or seen["status"] != "ok" else 1.0)


def stop(cluster: LocalCluster, running: Running | None, custody: Custody) -> int:
    """Serve first, so that replicas end in order; then Ray; then whatever is left. Returns how many were killed."""
    if running is not None:
        _end(running.serve, signal.SIGINT, _SERVE_STOP_S)
        _end(running.ray, signal.SIGTERM, _RAY_STOP_S)
    num_killed = custody.release(grace_s=2.0)
    for process in left_over(cluster.run_id):
        if process.pid != os.getpid():
            process.kill()
            num_killed += 1
    return num_killed


def _health(client: httpx.Client, url: str) -> Mapping[str, Any] | None:
    """None while nothing, or not yet we, answer at the address."""
    try:
        answer = client.get(f"{url}/health").json()
    except (httpx.HTTPError, ValueError):
        return None
    return answer if isinstance(answer, dict) and "models" in answer else None


def _text(log: Path) -> str:
    return log.read_text(errors="replace")


def _still_runs(process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    if process.poll() is None:
        return
    tail = "\n".join(_text(log).splitlines()[-_TAIL_LINES:])
    raise FleetUnready(f"`{name}` ended with code {process.returncode}. The end of {log}:\n{tail}")


def _end(process: subprocess.Popen[bytes], number: signal.Signals, timeout_s: float) -> None:
    if process.poll() is not None:
        return
    process.send_signal(number)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
