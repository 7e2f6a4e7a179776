"""Which ports are free, and who has those that are not."""

from __future__ import annotations

import socket

import psutil

from serve_app.errors import AlreadyRunning


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def preferred_port(host: str, port: int) -> int:
    """`port` when it is free, else any free one."""
    return port if is_free(host, port) else any_port(host)


def any_port(host: str) -> int:
    """A port that is free now, chosen by the kernel."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, *, purpose: str, advice: str) -> None:
    """Raises AlreadyRunning, naming the program that has the port where that can be seen."""
    if is_free(host, port):
        return
    raise AlreadyRunning(
        f"Port {port} on {host}, wanted for {purpose}, is taken{_by_whom(port)}.",
        expected="A free port.",
        advice=advice,
    )


def _by_whom(port: int) -> str:
    for connection in psutil.net_connections(kind="tcp"):
        local = connection.laddr
        if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
            try:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return ""
