"""Real servers on loopback for gateway tests: uvicorn in the test's own event loop, and waiting for conditions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import uvicorn
from openai import AsyncOpenAI

from serve_app.api.control_routes import ControlAnswer, ControlAsked, json_answer
from serve_app.api.wire import ApplyOutcome, ApplyRequest, ModelAction, ModelOutcome
from serve_app.config.settings import Settings
from serve_app.engines.scripted import ScriptedEngine
from serve_app.gateway.app import Gateway
from serve_app.gateway.cache import Store
from serve_app.gateway.routing_table import Backend, Peer
from tests.serve_app.gateway.builders import SECRET, backend, settings, table
from tracing.metrics import Recorder

DEADLINE_S = 20.0
METRICS_PAGE = "# HELP headroom_http_requests_total x\n# HELP headroom_device_up y\n"


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port; gives its base address. At the end every connection is cut."""
    # With its protocol named: only then asyncio switches Nagle's delay off for what it accepts.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level=60, timeout_keep_alive=600)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        listener.close()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)


async def until(condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds; fails after the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  # the conditions are other objects' plain fields
            await asyncio.sleep(0.002)


def free_url() -> str:
    """An address nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class FakeControl:
    """`ControlPlane` that says what it is told to say; `away` makes every call fail."""

    def __init__(self) -> None:
        self.away = False
        self.applied: list[ApplyRequest] = []
        self.outcome = ApplyOutcome.PROPOSED
        self.acted: list[tuple[ModelAction, str]] = []
        self.asked: list[ControlAsked] = []
        self.acts = ModelOutcome.ACCEPTED
        self.health_page: dict[str, Any] = {"status": "ok", "controller": "serving", "reason": "", "models": {}}

    async def health(self) -> Mapping[str, Any]:
        return self._said(self.health_page)

    async def models_info(self) -> Mapping[str, Any]:
        return self._said({"models": [{"id": "mini", "loaded": True}]})

    async def fleet(self) -> Mapping[str, Any]:
        return self._said({"headroom": 0.2, "devices": [], "source": "cluster"})

    async def metrics(self) -> bytes:
        self._said({})
        return METRICS_PAGE.encode()

    async def apply(self, asked: ApplyRequest) -> Mapping[str, Any]:
        self.applied.append(asked)
        return self._said({"outcome": self.outcome, "message": "because"})

    async def applying(self) -> Mapping[str, Any]:
        return self._said({"status": "none", "done": 0, "num_batches": 0, "doing": "", "message": ""})

    async def act(self, action: ModelAction, model: str) -> Mapping[str, Any]:
        self.acted.append((action, model))
        return self._said({"outcome": self.acts, "message": "because"})

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        self.asked.append(asked)
        self._said({})
        return json_answer({"path": asked.path}, 201)

    def _said(self, page: dict[str, Any]) -> dict[str, Any]:
        if self.away:
            raise RuntimeError("the controller is away")
        return page


@dataclass(slots=True)
class Stage:
    """One gateway before scripted engines, all on loopback."""

    gateway: Gateway
    url: str
    control: FakeControl
    recorder: Recorder
    engines: list[ScriptedEngine]
    http: httpx.AsyncClient
    urls: Mapping[str, str]
    """Of its engines, by model."""

    @property
    def engine(self) -> ScriptedEngine:
        return self.engines[0]

    def client(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, **options)

    async def chat(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/v1/chat/completions", json=body, headers=named)

    async def chat_alone(self, body: dict[str, Any]) -> tuple[str, bytes]:
        """Ask over a connection of its own, without httpx, whose pool is slow with hundreds: `(cache state, body)`."""
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        raw = orjson.dumps(body)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(raw) + raw)
        answer = await reader.read()
        writer.close()
        sent_head, _, sent_body = answer.partition(b"\r\n\r\n")
        states = [line[18:].decode() for line in sent_head.split(b"\r\n") if line.startswith(b"x-headroom-cache: ")]
        return states[0], sent_body

    async def cache_row(self, mode: str = "fast") -> dict[str, Any]:
        page = (await self.http.get("/admin/cache/stats")).json()
        row: dict[str, Any] = page["modes"][mode]
        return row

    def counted(self, name: str, *labels: str) -> float:
        (delta,) = self.recorder.drain()
        return delta.counters.get((name, labels), 0.0)


@contextlib.asynccontextmanager
async def stage(
    *models: str,
    of: Settings | None = None,
    num_words: int = 8,
    token_s: float = 0.0,
    dead: tuple[Backend, ...] = (),
    store: Store | None = None,
) -> AsyncIterator[Stage]:
    """A gateway with one scripted engine per name (a name twice: two replicas); `dead` backends come first."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [ScriptedEngine(model=m, secret=SECRET, num_words=num_words, token_s=token_s) for m in models]
        urls = [await stack.enter_async_context(served(engine)) for engine in engines]
        control, recorder = FakeControl(), Recorder("test")
        gateway = Gateway(settings=of or settings(), control=control, recorder=recorder, store=store, created=1)
        stack.push_async_callback(gateway.aclose)
        alive = [backend(m, url=url, number=number) for number, (m, url) in enumerate(zip(models, urls, strict=True))]
        gateway.update(table(*dead, *alive))
        url = await stack.enter_async_context(served(gateway))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=DEADLINE_S))
        yield Stage(gateway, url, control, recorder, engines, http, dict(zip(models, urls, strict=True)))


@contextlib.asynccontextmanager
async def two_gateways(*, of: Settings | None = None) -> AsyncIterator[tuple[Stage, Stage]]:
    """Two gateways that are peers of each other, before one engine."""
    async with peers_of(None, None, of=of) as both:
        yield both


@contextlib.asynccontextmanager
async def peers_of(*stores: Store | None, of: Settings | None = None) -> AsyncIterator[tuple[Stage, Stage]]:
    """The same, each with its store; None: one of its own."""
    async with contextlib.AsyncExitStack() as stack:
        engine = ScriptedEngine(model="mini", secret=SECRET)
        engine_url = await stack.enter_async_context(served(engine))
        made = []
        for number, store in enumerate(stores):
            control, recorder, name = FakeControl(), Recorder(f"g{number}"), f"g{number}"
            gateway = Gateway(
                settings=of or settings(), control=control, recorder=recorder, replica=name, store=store, created=1
            )
            stack.push_async_callback(gateway.aclose)
            url = await stack.enter_async_context(served(gateway))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=DEADLINE_S))
            made.append(Stage(gateway, url, control, recorder, [engine], http, {"mini": engine_url}))
        peers = tuple(Peer(replica=f"g{number}", url=one.url) for number, one in enumerate(made))
        for one in made:
            one.gateway.update(table(backend("mini", url=engine_url), peers=peers))
        yield made[0], made[1]
