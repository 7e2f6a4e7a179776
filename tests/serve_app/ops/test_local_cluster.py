"""The command lines `headroom up` prints and runs."""

from __future__ import annotations

import shlex
from pathlib import Path

from serve_app.ops.local_cluster import (
    LocalCluster,
    Ports,
    as_typed,
    environment,
    ray_start_command,
    serve_run_command,
)

CLUSTER = LocalCluster(
    config=Path("/etc/headroom/my cluster.yaml"),
    home=Path("/var/headroom"),
    run_id="r1",
    run_dir=Path("/var/headroom/run/r1"),
    socket_dir=Path("/var/headroom/run/r1"),
    temp_dir=Path("/var/headroom/ray"),
    address="127.0.0.1",
    ports=Ports(
        http=8000,
        gcs=6379,
        dashboard=8265,
        dashboard_agent=52365,
        ray_client=50001,
        haproxy_stats=8404,
        haproxy_metrics=9101,
        fallback_http=41001,
        fallback_grpc=41002,
    ),
    num_cpus=2,
    memory_bytes=1 << 34,
    programs=Path("/opt/venv/bin"),
    tracing={"HEADROOM_TRACE_DIR": "/var/headroom/traces"},
)


class TestCommands:
    def test_what_is_printed_is_what_a_shell_would_run(self) -> None:
        typed = as_typed(serve_run_command(CLUSTER), {"A": "x y"})
        assert typed.splitlines()[0] == "export A='x y'"
        assert shlex.split(typed.splitlines()[-1]) == serve_run_command(CLUSTER)

    def test_ray_is_told_all_memory_and_our_node_label(self) -> None:
        command = ray_start_command(CLUSTER)
        assert f"--memory={1 << 34}" in command
        assert "--labels=headroom.node=head" in command

    def test_the_ingress_is_haproxy_and_tracing_is_set_before_ray_starts(self) -> None:
        variables = environment(CLUSTER)
        assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert variables["HEADROOM_TRACE_DIR"] == "/var/headroom/traces"

    def test_haproxy_is_started_through_the_wrapper_of_this_run(self) -> None:
        assert environment(CLUSTER)["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/var/headroom/run/r1/haproxy"

    def test_every_process_can_be_found_by_its_run(self) -> None:
        assert environment(CLUSTER)["HEADROOM_RUN"] == "r1"

    def test_no_other_cluster_of_this_machine_answers_while_this_one_starts(self) -> None:
        variables = environment(CLUSTER)
        assert variables["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] == "41001"
        assert variables["RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"] == "41002"

    def test_ray_wants_the_token_of_this_run_whatever_lies_in_the_users_home(self) -> None:
        variables = environment(CLUSTER)
        assert variables["RAY_AUTH_MODE"] == "token"
        assert variables["RAY_AUTH_TOKEN_PATH"] == "/var/headroom/run/r1/ray-token"
