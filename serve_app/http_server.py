"""uvicorn inside a replica, on a port of the node's address, without touching signal handlers.

Used by engines for the gateway's requests, and by gateways for those of their peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

ADDRESS_VARIABLE = "HEADROOM_ADDRESS_TO_BIND"
"""Set on a one-machine cluster, so that replicas listen on loopback only; else they listen on their node's address."""
_STARTED_POLL_S = 0.01
_STOP_TIMEOUT_S = 5
_BACKLOG = 2048


def own_address() -> str:
    """Address on which replicas of this node are reached by the others."""
    if ADDRESS_VARIABLE in os.environ:
        return os.environ[ADDRESS_VARIABLE]
    import ray

    return str(ray.util.get_node_ip_address())


def _listener(host: str, port: int) -> socket.socket:
    """Named as TCP, or asyncio leaves Nagle's delay on: 45 ms for each answer of two pieces.

    Another free port than `port` where that one is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        listener.bind((host, 0))
    listener.listen(_BACKLOG)
    return listener


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to Ray's worker process."""
        yield


class HttpServer:
    def __init__(self, app: Any) -> None:
        """`app` is an ASGI application."""
        self._app = app
        self._server: _QuietServer | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self, *, host: str, port: int = 0) -> None:
        """Listen; returns when requests are accepted. `url` is set then.

        `port` 0: any free one. Where the port asked for is taken, any free one too; `url` says which.
        """
        listener = _listener(host, port)
        self.url = f"http://{host}:{listener.getsockname()[1]}"
        self._server = _QuietServer(
            uvicorn.Config(
                self._app,
                http="httptools",
                lifespan="off",
                # Its own configuration closes every handler there is; Serve's log files would stay silent from then on.
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=600,
                timeout_graceful_shutdown=_STOP_TIMEOUT_S,
            )
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(_STARTED_POLL_S)

    async def stop(self) -> None:
        """No new connections; what runs has some seconds to finish."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.wait_for(self._task, timeout=2 * _STOP_TIMEOUT_S)
