"""The commands and the environment that start Headroom on this machine, exactly as a user could type them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_app.access.listening import HTTPS_VARIABLE
from serve_app.fleet.names import NODE_LABEL, ROLE_LABEL
from serve_app.http_server import ADDRESS_VARIABLE
from serve_app.ops.haproxy import WRAPPER_NAME

RUN_VARIABLE = "HEADROOM_RUN"
"""Carried by every process of one `headroom up`, so that `headroom down` finds what is left of it."""
HEAD_NODE = "head"
TOKEN_NAME = "ray-token"  # noqa: S105 - a file's name
"""File of the run directory with the secret that Ray asks of whoever talks to its control plane."""
OBJECT_STORE_BYTES = 256 << 20
"""Requests go over HTTP, not through the object store: Ray's least plus room for arguments and logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Every port we choose; the HTTP port is the one of cluster.yaml.

    The two of the fallback must be of this cluster alone: Serve shares them between clusters without an error, and
    HAProxy asks there while a gateway is not up yet, so that another cluster of this machine would answer.
    """

    http: int
    gcs: int
    dashboard: int
    dashboard_agent: int
    ray_client: int
    haproxy_stats: int
    haproxy_metrics: int
    fallback_http: int
    fallback_grpc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """What to start. `address` is where Ray and Serve listen, `programs` the directory of `ray` and `serve`.

    `socket_dir` is short: Serve adds a node id of 56 characters, and HAProxy's sockets may have 97 in all.
    """

    config: Path
    home: Path
    run_id: str
    run_dir: Path
    temp_dir: Path
    socket_dir: Path
    address: str
    certificate: Path | None = None
    """What HTTP is encrypted with; None serves it unencrypted."""
    ports: Ports
    num_cpus: int
    memory_bytes: int
    role: str = "both"
    """`inference`, `training` or `both`."""
    programs: Path
    tracing: Mapping[str, str]


def environment(cluster: LocalCluster) -> dict[str, str]:
    """Variables that must be set before Ray starts; Serve reads its own in every process."""
    run_dir = cluster.run_dir
    return {
        "HEADROOM_HOME": str(cluster.home),
        "HEADROOM_CONFIG_DIR": str(cluster.config.parent),
        RUN_VARIABLE: cluster.run_id,
        "RAY_ADDRESS": f"{cluster.address}:{cluster.ports.gcs}",
        # Always said: when it is not, Ray decides by what lies in ~/.ray, and `ray start` and `serve run` differ.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(run_dir / TOKEN_NAME),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(run_dir / WRAPPER_NAME),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, cluster.num_cpus)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(cluster.socket_dir / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "haproxy.state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(cluster.ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(cluster.ports.haproxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(cluster.ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(cluster.ports.fallback_grpc),
        # Long enough for HAProxy, which looks every 250 ms, to see that a replica leaves.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # The gateway watches its clients itself: two tasks less per request.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.gateway.serve_ingress:middlewares",
        # Serve's controller looks at everything ten times a second by default, which is 3 % of a core for nothing.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.4",
        # Engines and gateways talk to each other over this address.
        ADDRESS_VARIABLE: cluster.address,
        HTTPS_VARIABLE: "0" if cluster.certificate is None else "1",
        # The default of the optimised setting holds a thousand log lines back.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # Ray starts its workers at niceness 15: behind every other program of the machine.
        "RAY_worker_niceness": "0",
        # A killed replica takes its engine core with it.
        "RAY_process_group_cleanup_enabled": "1",
        **cluster.tracing,
    }


def ray_start_command(cluster: LocalCluster) -> list[str]:
    """Host memory is given in full: Ray's own figure would be what happens to be free now."""
    ports = cluster.ports
    return [
        str(cluster.programs / "ray"),
        "start",
        "--head",
        "--block",
        f"--node-ip-address={cluster.address}",
        f"--port={ports.gcs}",
        f"--ray-client-server-port={ports.ray_client}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent}",
        f"--num-cpus={cluster.num_cpus}",
        f"--memory={cluster.memory_bytes}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--labels={_labels(cluster)}",
        f"--temp-dir={cluster.temp_dir}",
        "--disable-usage-stats",
    ]


def _labels(cluster: LocalCluster) -> str:
    """A node without a role is for both."""
    node = f"{NODE_LABEL}={HEAD_NODE}"
    return node if cluster.role == "both" else f"{node},{ROLE_LABEL}={cluster.role}"


def serve_run_command(cluster: LocalCluster) -> list[str]:
    return [str(cluster.programs / "serve"), "run", str(cluster.config)]


def as_typed(command: list[str], variables: Mapping[str, str]) -> str:
    """The command as a user would type it in a shell, variables first."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*exports, shlex.join(command)])
