"""A scripted controller behind the real gateway, on one or two nodes, with switches that plant one fault each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer, json_answer
from serve_app.api.errors import not_found
from serve_app.api.wire import ModelAction, ModelOutcome
from serve_app.engines.scripted import ScriptedEngine
from serve_app.gateway.app import Gateway
from serve_app.gateway.routing_table import Backend
from serve_app.rollout.views import RolloutsView, view_of
from tests.serve_app.gateway.builders import SECRET, settings, table
from tests.serve_app.gateway.serving import FakeControl, served
from tests.serve_app.rollout.controllers import controller, store
from tests.serve_app.rollout.fake_world import Cluster
from tracing import names
from tracing.collector import Collector
from tracing.metrics import Recorder

GIB = 2**30
VERSION = "0123456789ab"
PLANNED = 2 * GIB


@dataclass
class Faults:
    """Nothing is wrong until something is set."""

    measured_bytes: int = PLANNED
    used_bytes: int = 4 * GIB
    is_unread: bool = False
    uuid: str | None = None
    runs_on: str | None = None
    suffix: str = ""
    """Of the names of replicas that stood beside those they took over from."""
    keeps_lease: bool = False
    is_full: bool = False
    lease_pause_s: float = 0.0
    info_version: str = VERSION
    reload_version: str = VERSION
    reload_status: int = 200
    never_loads: bool = False
    counts: bool = True
    trace_header: bytes | None = None
    watch_age_s: float = 0.0
    lost_node: str | None = None
    digest: str | None = None


@dataclass
class ScriptedController(FakeControl):
    """Two models, `mini` on the first node and `small` on the last."""

    nodes: tuple[str, ...]
    faults: Faults = field(default_factory=Faults)
    recorder: Recorder = field(default_factory=lambda: Recorder("gateway"))

    def __post_init__(self) -> None:
        super().__init__()
        self.collector = Collector(version="test")
        self.leases: dict[str, dict[str, Any]] = {}
        self.away_models: set[str] = set()
        self.rollouts: tuple[Any, ...] = ()
        self.device_of = {"mini": f"{self.nodes[0]}/gpu-0", "small": f"{self.nodes[-1]}/gpu-0"}

    async def health(self) -> Mapping[str, Any]:
        return {"status": "ok", "controller": "serving", "reason": "", "models": {}}

    async def models_info(self) -> Mapping[str, Any]:
        return {"models": [self._info(model) for model in self.device_of]}

    async def metrics(self) -> bytes:
        delta = self.recorder.drain()
        self.collector.merge(delta if self.faults.counts else (), now_s=0.0)
        own = Recorder("controller")
        for node in self.nodes:
            device = f"{node}/gpu-0"
            own.gauge(names.DEVICE_UP, node, device, self.faults.uuid or f"uuid-{device}").set(1)
            own.gauge(names.WATCH_LAST_POLL, node).set(time.time() - self.faults.watch_age_s)
        self.collector.merge(own.drain(), now_s=0.0)
        return self.collector.render()

    async def act(self, action: ModelAction, model: str) -> Mapping[str, Any]:
        if action in (ModelAction.UNLOAD, ModelAction.SLEEP):
            self.away_models.add(model)
        elif not self.faults.never_loads:
            self.away_models.discard(model)
        return {"outcome": ModelOutcome.ACCEPTED, "message": "under way"}

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        match asked.method, asked.path:
            case "GET", "/v1/fleet":
                return json_answer({"headroom": 0.2, "devices": [self._device(node) for node in self.nodes]})
            case "GET", "/v1/plan":
                return json_answer(self._plan())
            case "GET", "/v1/leases":
                return json_answer({"leases": list(self.leases.values()), "next_page_token": "", "total": 0})
            case "POST", "/v1/leases":
                return await self._lend()
            case "DELETE", _:
                if not self.faults.keeps_lease:
                    self.leases.pop(asked.path.rpartition("/")[2])
                return json_answer({})
        return error_answer(not_found("no such page", code="unknown_path"))

    async def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Of the routes that this branch's gateway does not pass on yet."""
        if path == "/models/reload":
            message = "Rollout 1 is shipping." if self.faults.reload_status == 409 else ""
            self.faults.info_version = self.faults.reload_version
            return self.faults.reload_status, {"weights_version": self.faults.reload_version, "message": message}
        if self.faults.digest is not None:
            shown = [one.model_copy(update={"digest": self.faults.digest}) for one in self.rollouts]
        else:
            shown = list(self.rollouts)
        return 200, RolloutsView(rollouts=tuple(shown), next=None).model_dump(mode="json")

    async def _lend(self) -> ControlAnswer:
        await asyncio.sleep(self.faults.lease_pause_s)
        if self.faults.is_full:
            return json_answer({"granted": False, "reason": "no_room", "message": "No room for 16 MB."}, 201)
        lease_id = f"lease-{len(self.leases)}"
        self.leases[lease_id] = {"lease_id": lease_id, "epoch": 1}
        return json_answer({"granted": True, "lease_id": lease_id, "epoch": 1}, 201)

    def _device(self, node: str) -> dict[str, Any]:
        name = f"{node}/gpu-0"
        held = None if self.faults.is_unread else self.faults.measured_bytes
        holders = [
            {
                "name": f"{model}#0{self.faults.suffix}",
                "kind": "replica",
                "planned_bytes": PLANNED,
                "measured_bytes": held,
                "peak_bytes": 3 * GIB,
                "state": "ready",
            }
            for model, device in self.device_of.items()
            if device == name
        ]
        used = self.faults.used_bytes
        return {
            "id": name,
            "node": node,
            "kind": "cuda",
            "product": "scripted",
            "total_bytes": 40 * 10**9,
            "used_bytes": used,
            "free_bytes": 40 * 10**9 - used,
            "headroom_ratio": 1 - used / (40 * 10**9),
            "passes": used <= 0.8 * 40 * 10**9,
            "health": "lost" if node == self.faults.lost_node else "healthy",
            "holders": holders,
            "temperature_c": None if self.faults.is_unread else 50.0,
        }

    def _plan(self) -> dict[str, Any]:
        placements = [{"replica": f"{model}#0", "devices": [device]} for model, device in self.device_of.items()]
        devices = [{"id": f"{node}/gpu-0", "uuid": f"uuid-{node}/gpu-0"} for node in self.nodes]
        return {"plan": {"placements": placements}, "inventory": {"devices": devices}}

    def _info(self, model: str) -> dict[str, Any]:
        is_loaded = model not in self.away_models
        device = self.faults.runs_on or self.device_of[model]
        replica = {"name": f"{model}#0{self.faults.suffix}", "state": "ready", "devices": [device]}
        return {
            "id": model,
            "loaded": is_loaded,
            "weights_version": self.faults.info_version,
            "pinned": model == "mini",
            "replicas": [replica] if is_loaded else [],
        }


@dataclass(slots=True)
class Running:
    url: str
    control: ScriptedController
    engines: Mapping[str, ScriptedEngine]

    @property
    def faults(self) -> Faults:
        return self.control.faults


@contextlib.asynccontextmanager
async def cluster(*, nodes: tuple[str, ...] = ("node-1",)) -> AsyncIterator[Running]:
    """The real gateway over two scripted engines and the scripted controller, at a real address."""
    async with contextlib.AsyncExitStack() as stack:
        control = ScriptedController(nodes)
        engines = {model: ScriptedEngine(model=model, secret=SECRET) for model in control.device_of}
        urls = {model: await stack.enter_async_context(served(engine)) for model, engine in engines.items()}
        gateway = Gateway(settings=settings(), control=control, recorder=control.recorder, created=1)
        stack.push_async_callback(gateway.aclose)
        gateway.update(table(*(_backend(model, url, control) for model, url in urls.items())))
        url = await stack.enter_async_context(served(_Front(gateway, control)))
        yield Running(url, control, engines)


async def with_a_rollout(running: Running) -> None:
    running.control.rollouts = (view_of(await controller(Cluster(), store()).rollout()),)


def _backend(model: str, url: str, control: ScriptedController) -> Backend:
    return Backend(
        replica=f"{model}#0:1",
        model=model,
        deployment=f"{model}@node",
        url=url,
        weights_version=VERSION,
        checkpoint_step=400,
        device=control.device_of[model],
        max_num_seqs=8,
        max_model_len=512,
    )


class _Front:
    """The gateway, with the routes before it that are the controller's; can spoil one header."""

    def __init__(self, gateway: Gateway, control: ScriptedController) -> None:
        self._gateway = gateway
        self._control = control

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in ("/models/reload", "/v1/rollouts"):
            status, page = await self._control.answer(scope["path"])
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": orjson.dumps(page)})
            return
        await self._gateway(scope, receive, self._spoiling(send))

    def _spoiling(self, send: Any) -> Any:
        async def spoiled(message: dict[str, Any]) -> None:
            other = self._control.faults.trace_header
            if other is not None and message["type"] == "http.response.start":
                heads = [(name, other if name == b"x-trace-id" else value) for name, value in message["headers"]]
                message = {**message, "headers": heads}
            await send(message)

        return spoiled
