"""The gateway under Ray Serve: the ASGI application of `app.py`, fed with the controller's routing table.

A shell: it polls, pushes and listens; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Mapping
from typing import Any

import psutil
import ray
from ray import serve

from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.api.wire import ApplyRequest, ModelAction
from serve_app.config.load import settings_from_args
from serve_app.controller.claims import Push
from serve_app.gateway.app import Gateway
from serve_app.gateway.asgi import ASGIApp, Receive, Scope, Send
from serve_app.gateway.routing_table import Peer, RoutingTable
from serve_app.http_server import HttpServer, own_address
from serve_app.logs import logger
from tracing import names
from tracing.metrics import Recorder
from tracing.setup import configure, record_drops

_POLL_S = 10.0
_PUSH_S = 1.0
_RETRY_S = 0.5
_ASK_TIMEOUT_S = 5.0


class ControllerLink:
    """`ControlPlane` over a Serve handle. Raises what Ray raises; the application answers that with 503."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = await _in_time(self._handle.health.remote())
        return answer

    async def models_info(self) -> dict[str, Any]:
        answer: dict[str, Any] = await _in_time(self._handle.models_info.remote())
        return answer

    async def fleet(self) -> dict[str, Any]:
        answer: dict[str, Any] = await _in_time(self._handle.fleet.remote())
        return answer

    async def apply(self, asked: ApplyRequest) -> dict[str, Any]:
        answer: dict[str, Any] = await self._handle.apply.remote(asked)
        return answer

    async def act(self, action: ModelAction, model: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self._handle.act.remote(action, model)
        return answer

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        answer: ControlAnswer = await self._handle.ask.remote(asked)
        return answer

    async def applying(self) -> dict[str, Any]:
        answer: dict[str, Any] = await _in_time(self._handle.applying.remote())
        return answer

    async def metrics(self) -> bytes:
        answer: bytes = await _in_time(self._handle.metrics.remote())
        return answer


class GatewayReplica:
    async def __init__(self, args: Mapping[str, Any], controller: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        configure(names.GATEWAY)
        self._settings = settings_from_args(args)
        self._controller = controller
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._recorder = Recorder(f"gateway-{self._replica}")
        self._gateway = Gateway(
            settings=self._settings,
            control=ControllerLink(controller),
            recorder=self._recorder,
            replica=self._replica,
            names_requests=False,
        )
        self._peer_server = HttpServer(self._gateway)
        await self._peer_server.start(host=own_address())
        self._tasks = [asyncio.create_task(work) for work in (self._follow(), self._push(), self._register())]
        gc.freeze()  # what is there now stays; collections need not walk it

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Asked for by Serve once the constructor has run."""
        return _with_lifespan(self._gateway)

    async def __del__(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._peer_server.stop()
        await self._gateway.aclose()

    async def _follow(self) -> None:
        """Keep the newest routing table. Without the controller the last one stays in force."""
        version = 0
        while True:
            table: RoutingTable | None = await self._asked(self._controller.routing_table.remote(version, _POLL_S))
            if table is not None:
                version = table.version
                self._gateway.update(table)

    async def _register(self) -> None:
        peer = Peer(replica=self._replica, url=self._peer_server.url)
        while True:
            await self._asked(self._controller.register_gateway.remote(peer))
            await asyncio.sleep(_POLL_S / 2)

    async def _push(self) -> None:
        process = psutil.Process()
        cpu = self._recorder.gauge(names.GATEWAY_CPU, self._replica)
        memory = self._recorder.gauge(names.GATEWAY_MEMORY, self._replica)
        while True:
            await asyncio.sleep(_PUSH_S)
            cpu.set(process.cpu_percent() / 100)
            memory.set(process.memory_percent() / 100)
            record_drops(self._recorder)
            self._gateway.show_breakers()
            await self._asked(self._controller.push.remote(Push(deltas=self._recorder.drain())))

    async def _asked(self, answer: Awaitable[Any]) -> Any:
        """The answer, or None after a pause when the controller is away."""
        try:
            return await answer
        except (ray.exceptions.RayError, serve.exceptions.RayServeException) as error:
            _log.warning("the controller does not answer", error=type(error).__name__)
            await asyncio.sleep(_RETRY_S)
            return None


async def _in_time(answer: Any) -> Any:
    return await asyncio.wait_for(answer, timeout=_ASK_TIMEOUT_S)


def _with_lifespan(app: ASGIApp) -> ASGIApp:
    """Serve insists on the lifespan protocol; ours has nothing to do in it."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                kind = (await receive())["type"].removeprefix("lifespan.")
                await send({"type": f"lifespan.{kind}.complete"})
                if kind == "shutdown":
                    return

    return wrapped


_log = logger("headroom.gateway")
