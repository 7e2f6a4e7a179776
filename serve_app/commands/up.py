"""`headroom up`: check, plan, start Ray and Serve, say when it serves, and clean up on Ctrl-C."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_app.commands.options import config_file_argument

if TYPE_CHECKING:
    from serve_app.config.load import ClusterFile
    from serve_app.ops.local_cluster import LocalCluster

_ADDRESS = "127.0.0.1"
_LONGEST_TEMP_DIR = 40
"""Ray puts sockets below it, and a socket's path may have 107 bytes."""


@click.command("up")
@config_file_argument
@click.option("--ray-port", default=6379, show_default=True, help="Port of Ray's control store.")
@click.option("--dashboard-port", default=8265, show_default=True, help="Port of the Ray dashboard.")
@click.option("--memory", default=None, help="Host memory to plan with, e.g. 16GiB; all of it when left out.")
@click.option(
    "--role",
    type=click.Choice(("both", "inference", "training")),
    default="both",
    show_default=True,
    help="What may run on this node; other nodes say it with the Ray label headroom.role.",
)
def command(file: Path, ray_port: int, dashboard_port: int, memory: str | None, role: str) -> None:
    """Start everything that FILE names, on this machine, and serve until Ctrl-C.

    Prints each command it runs. Nothing stays behind when it ends: no process, no shared memory.
    """
    from serve_app.config.load import load_cluster
    from serve_app.config.sources import check_sources

    config = load_cluster(file)
    check_sources(config)
    _require_certificate(config)
    _require_permission(config)
    _require_ports(config, ray_port=ray_port, dashboard_port=dashboard_port)
    cluster = _local_cluster(config, ray_port=ray_port, dashboard_port=dashboard_port, memory=memory, role=role)
    try:
        _say_plan(config, cluster)
        _make_models(config)
        _serve(config, cluster)
    finally:
        shutil.rmtree(cluster.socket_dir, ignore_errors=True)


def _local_cluster(
    config: ClusterFile, *, ray_port: int, dashboard_port: int, memory: str | None, role: str
) -> LocalCluster:
    from serve_app.config.sizes import size_bytes
    from serve_app.fleet.host_memory import read_host_memory
    from serve_app.ops.haproxy import WRAPPER_NAME, write_wrapper
    from serve_app.ops.local_cluster import TOKEN_NAME, LocalCluster, Ports
    from serve_app.ops.ports import any_port, preferred_port
    from tracing.settings import cluster_environment

    home = config.settings.storage.home
    run_id = uuid.uuid4().hex[:12]
    run_dir = home / "run" / run_id
    run_dir.mkdir(parents=True)
    _write_token(run_dir / TOKEN_NAME)
    tls = config.settings.access.tls
    write_wrapper(run_dir / WRAPPER_NAME, tls=tls)
    address = _ADDRESS
    tracing = config.settings.tracing
    return LocalCluster(
        config=config.path,
        home=home,
        run_id=run_id,
        run_dir=run_dir,
        temp_dir=_short(home / "ray"),
        socket_dir=Path(tempfile.mkdtemp(prefix="headroom-")),
        address=address,
        certificate=None if tls is None else tls.certificate,
        ports=Ports(
            http=config.port,
            gcs=ray_port,
            dashboard=dashboard_port,
            dashboard_agent=preferred_port(address, 52365),
            ray_client=preferred_port(address, 10001),
            haproxy_stats=preferred_port(address, 8404),
            haproxy_metrics=preferred_port(address, 9101),
            fallback_http=any_port(address),
            fallback_grpc=any_port(address),
        ),
        num_cpus=len(os.sched_getaffinity(0)),
        memory_bytes=size_bytes(memory) if memory else read_host_memory().total_bytes,
        role=role,
        programs=Path(sys.executable).parent,
        tracing=cluster_environment(
            os.environ,
            directory=home / "traces",
            keep_recent=tracing.keep_recent,
            sample_ratio=tracing.sample_ratio,
        ),
    )


def _short(path: Path) -> Path:
    return path if len(str(path)) <= _LONGEST_TEMP_DIR else Path(tempfile.mkdtemp(prefix="headroom-"))


def _write_token(path: Path) -> None:
    """A new secret for this run that only its user can read."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(secrets.token_hex(32))


def _require_certificate(config: ClusterFile) -> None:
    """Raises: HeadroomError for one that no client would accept, ConfigError for one that cannot serve."""
    from serve_app.config.certificate import check_certificate
    from serve_app.errors import HeadroomError

    doubt = check_certificate(config, now_s=time.time())
    if doubt is not None and doubt.is_over:
        raise HeadroomError(doubt.message)
    if doubt is not None:
        click.echo(f"Warning: {doubt.message}", err=True)


def _require_permission(config: ClusterFile) -> None:
    """Raises: HeadroomError where HTTP would be open to others without keys, or not encrypted as was asked for."""
    from serve_app.access.listening import HttpListener, http_refusal
    from serve_app.access.store import has_keys
    from serve_app.errors import HeadroomError
    from serve_app.fleet.measurements import store_path

    access = config.settings.access
    if config.has_ray_certificate:
        raise HeadroomError(
            "`http_options.ssl_certfile` is for Ray's own proxy; `headroom up` serves by HAProxy, which never sees it.",
            advice="Set `access.certificate_file` and `access.key_file` instead.",
        )
    listener = HttpListener(host=config.host, has_tls=access.tls is not None)
    closed = has_keys(store_path(config.settings.storage.home))
    refusal = http_refusal(listener, access, has_keys=closed, has_ray_token=True)
    if refusal is not None:
        raise HeadroomError(f"`http_options.host`: {refusal}")


def _require_ports(config: ClusterFile, *, ray_port: int, dashboard_port: int) -> None:
    from serve_app.ops.ports import require_free

    require_free(
        config.host,
        config.port,
        purpose="HTTP (`http_options.port`)",
        advice="Stop that program, run `headroom down` if it is an earlier Headroom, or change `http_options.port`.",
    )
    require_free(
        _ADDRESS,
        ray_port,
        purpose="Ray's control store",
        advice="Is Ray running already? Deploy on it with `serve run cluster.yaml`, or give `--ray-port`.",
    )
    require_free(_ADDRESS, dashboard_port, purpose="the Ray dashboard", advice="Give `--dashboard-port`.")
    leases = config.settings.leases
    for key, port in (("grpc_port", leases.grpc_port), ("zeromq_port", leases.zeromq_port)):
        if port is not None:
            advice = f"Stop that program, or change `leases.{key}`; null serves none."
            require_free(_ADDRESS, port, purpose=f"leases (`leases.{key}`)", advice=advice)


def _say_plan(config: ClusterFile, cluster: LocalCluster) -> None:
    """The plan as it would be made now; a refusal does not stop the others from being served."""
    from serve_app.commands.plan import say_plan

    say_plan(config, host_total_bytes=cluster.memory_bytes)


def _make_models(config: ClusterFile) -> None:
    names = [m.source.removeprefix("default:") for m in config.settings.models if m.source.startswith("default:")]
    if names:
        from serve_app.commands.training_progress import TrainingProgress
        from serve_app.training.side_by_side import ensure_default_models

        with TrainingProgress() as shown:
            ensure_default_models(names, home=config.settings.storage.home, progress=shown)


def _serve(config: ClusterFile, cluster: LocalCluster) -> None:
    import psutil

    from serve_app.ops import launch
    from serve_app.ops.local_cluster import as_typed, environment, ray_start_command, serve_run_command
    from serve_app.ops.process_custody import Custody
    from serve_app.ops.run_record import RunRecord, drop_record, write_record

    url = f"{'http' if cluster.certificate is None else 'https'}://{config.host}:{config.port}"
    click.echo(as_typed(ray_start_command(cluster), environment(cluster)))
    click.echo(as_typed(serve_run_command(cluster), {}))
    click.echo(
        f"# logs: {cluster.run_dir}/ray.log, {cluster.run_dir}/serve.log, {cluster.temp_dir}/session_latest/logs"
    )
    began_s, custody, running = time.monotonic(), Custody(), None
    started_s = psutil.Process().create_time()
    write_record(cluster.home, RunRecord(run_id=cluster.run_id, pid=os.getpid(), started_s=started_s, address=url))
    with launch.stop_signals():
        try:
            running = launch.start(cluster, custody)
            launch.watch(cluster, running, url, _Narrator(url, cluster, began_s))
        except launch.Stopped as signal_name:
            click.echo(f"\n{signal_name}: stopping …")
        finally:
            num_killed = launch.stop(cluster, running, custody)
            drop_record(cluster.home)
            click.echo(
                f"Stopped; nothing left running{f' ({num_killed} processes had to be killed)' * bool(num_killed)}."
            )


class _Narrator:
    """Says each model's state once when it changes, and how to ask as soon as all that can serve do."""

    def __init__(self, url: str, cluster: LocalCluster, began_s: float) -> None:
        self._url = url
        self._cluster = cluster
        self._began_s = began_s
        self._said: dict[str, str] = {}
        self._invited = False

    def __call__(self, health: Mapping[str, Any]) -> None:
        for model, one in {
            "controller": {"status": health["controller"], "reason": health["reason"]},
            **health["models"],
        }.items():
            line = f"{model}: {one['status']}" + (f" ({one['reason']})" if one["reason"] else "")
            if self._said.get(model) != line:
                self._said[model] = line
                click.echo(f"[{time.monotonic() - self._began_s:6.1f} s] {line}")
        if not self._invited and all(one["status"] in ("ready", "refused") for one in health["models"].values()):
            self._invited = True
            self._invite()

    def _invite(self) -> None:
        from serve_app.ops.local_cluster import TOKEN_NAME

        trust = "" if self._cluster.certificate is None else f"--cacert {self._cluster.certificate} "
        dashboard = f"http://127.0.0.1:{self._cluster.ports.dashboard}"
        click.echo(
            f"\nServing on {self._url}/v1   (dashboard: {dashboard}, its token: {self._cluster.run_dir / TOKEN_NAME})\n"
            f"  curl {trust}{self._url}/v1/chat/completions -H 'content-type: application/json' \\\n"
            """    -d '{"model": "fast", "messages": [{"role": "user", "content": "What is 3 + 4?"}]}'\n"""
            "Ctrl-C stops it."
        )
