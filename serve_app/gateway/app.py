"""The gateway as one ASGI application: puts its parts together and sends each request to its route.

Runs under any ASGI server, with or without Ray. The shell around it calls `update` with each routing table and
`aclose` at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl

from serve_app.api.control_routes import ControlAsked, ControlRoute, control_route
from serve_app.api.errors import ApiError, invalid, method_not_allowed, not_found
from serve_app.config.settings import Settings
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.admission import Admission
from serve_app.gateway.answer_headers import own_headers
from serve_app.gateway.asgi import Asked, BodyReader, Receive, Scope, Send, read_headers, send_whole
from serve_app.gateway.board import KEPT_BYTES, FlightBoard
from serve_app.gateway.bulkheads import Bulkheads
from serve_app.gateway.cache import ENTRY_OVERHEAD_BYTES, MemoryStore, Store
from serve_app.gateway.cache_log import RecordingStore
from serve_app.gateway.catalog import Catalog, make_catalog
from serve_app.gateway.control import ControlPlane
from serve_app.gateway.embedders import embedder
from serve_app.gateway.inference import Inference
from serve_app.gateway.loads import Loads, RetryBudget
from serve_app.gateway.meters import Meters
from serve_app.gateway.pages import MODEL_ROUTE, Page, Pages
from serve_app.gateway.peers import Peers
from serve_app.gateway.pulse_probes import PulseProbes
from serve_app.gateway.redis_store import RedisStore
from serve_app.gateway.routing_table import RoutingTable
from serve_app.gateway.run_terms import Deadlines, Engines
from serve_app.gateway.semantic_cache import SemanticCache
from serve_app.gateway.steering import Steering
from serve_app.gateway.upstream import Pool, address_of
from serve_app.gateway.waker import Waker
from tracing.metrics import Recorder
from tracing.spans import begin_request

UNKNOWN_ROUTE: Final = "other"
Posted = bytes | ApiError
_HOT: Final = {endpoint.value: endpoint for endpoint in Endpoint}
_MAX_QUERY_FIELDS: Final = 32
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class Gateway:
    """`replica` is this gateway's name among `RoutingTable.peers`; `clock` is monotonic, in seconds."""

    def __init__(
        self,
        *,
        settings: Settings,
        control: ControlPlane,
        recorder: Recorder,
        replica: str = "local",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        store: Store | None = None,
        created: int | None = None,
        names_requests: bool = True,
    ) -> None:
        """`names_requests` False: the server around us adds `x-request-id` to every answer, as Ray Serve does."""
        self._names_requests = names_requests
        self._settings = settings
        self._clock = clock
        self._admission = Admission(clock=clock, wall_clock=wall_clock)
        self._table: RoutingTable | None = None
        self._catalog = Catalog(models={}, modes={}, serving={})
        self._pool = Pool()
        cache_type = store.kind if store else ("redis" if settings.cache.redis_url else "memory")
        self._meters = Meters(recorder, modes=[mode.name for mode in settings.modes], cache_type=cache_type)
        answers = store or make_store(settings, clock=clock, on_expired=self._meters.expired)
        self._store = recorded(answers, settings, clock=clock)
        semantic = SemanticCache(
            embedder=embedder(settings.cache.embedder), answers=answers, max_bytes=settings.cache.semantic_max_bytes
        )
        limits = settings.gateway
        silence_s = max(limits.first_token_timeout_s, limits.between_tokens_timeout_s)
        self._peers = Peers(pool=self._pool, silence_s=silence_s, clock=clock)
        engines = Engines(
            pool=self._pool,
            loads=Loads(clock, hang_after_s=limits.hang_after_s),
            retries=RetryBudget(),
            deadlines=Deadlines(
                first_token_s=limits.first_token_timeout_s,
                between_tokens_s=limits.between_tokens_timeout_s,
                queue_s=limits.queue_timeout_s,
            ),
            bulkheads=Bulkheads(max_queued=limits.max_queued, on_queued=self._queued),
        )
        self._loads, self._bulkheads = engines.loads, engines.bulkheads
        self._steering = Steering(engines=engines, clock=clock)
        self._probes = PulseProbes(loads=engines.loads, pool=self._pool, hang_after_s=limits.hang_after_s)
        self._bodies = BodyReader(max_bytes=limits.max_body_bytes, clock=clock)
        self._board = FlightBoard(
            engines=engines,
            store=self._store,
            meters=self._meters,
            on_ended=self._steering.ended,
            on_stored=semantic.remember,
        )
        self._inference = Inference(
            admission=self._admission,
            replica=replica,
            clock=clock,
            bodies=self._bodies,
            store=self._store,
            semantic=semantic,
            board=self._board,
            engines=engines,
            steering=self._steering,
            probes=self._probes,
            peers=self._peers,
            meters=self._meters,
            waker=Waker(control=control, clock=clock, timeout_s=limits.wake_timeout_s),
            names_requests=names_requests,
        )
        self._pages = Pages(
            settings=settings,
            control=control,
            store=self._store,
            semantic=semantic,
            meters=self._meters,
            peers=self._peers,
            explain=self._inference.explain,
            downshift_stats=self._steering.stats,
            replica=replica,
            created=created if created is not None else int(time.time()),
        )
        self.update(RoutingTable(version=0, backends=(), peers=(), internal_secret=""))

    def update(self, table: RoutingTable) -> None:
        """Take over a newer routing table. Answers under way go on with the backends they have."""
        if table == self._table:
            return
        self._table = table
        self._admission.update(table)
        if table.offer is not None:
            self._settings = replace(self._settings, models=table.offer.models, modes=table.offer.modes)
        self._meters.expect(mode.name for mode in self._settings.modes)
        self._catalog = make_catalog(self._settings, table)
        self._loads.keep(table.backends)
        self._bulkheads.keep_only(frozenset(f"{one.model}@{one.weights_version}" for one in table.backends))
        self._probes.update(table.backends, table.internal_secret)
        self._meters.expect_models(self._catalog.models, {backend.deployment for backend in table.backends})
        self._meters.versions.expect((backend.model, backend.weights_version) for backend in table.backends)
        self.show_breakers()
        self._inference.update(self._catalog, table)
        self._pages.update(self._catalog, table.peers, self._settings)
        self._peers.update(table.internal_secret)
        self._pool.keep_only({address_of(url) for url in _urls(table)})

    def show_breakers(self) -> None:
        """Bring `headroom_breaker_state` up to now: an open one becomes half open by time alone."""
        states: dict[str, int] = {}
        for backend in self._table.backends if self._table else ():
            state = int(self._loads.state(backend.replica))
            states[backend.deployment] = max(state, states.get(backend.deployment, 0))
        self._meters.breakers(states)

    def _queued(self, room: str, by: int) -> None:
        self._meters.queued(room.rpartition("@")[0], by)

    @property
    def paths(self) -> frozenset[str]:
        """Templates of all routes."""
        return self._pages.paths | _HOT.keys() | {MODEL_ROUTE}

    @property
    def catalog(self) -> Catalog:
        """What can be asked for now."""
        return self._catalog

    @property
    def store(self) -> Store:
        return self._store

    @property
    def pool(self) -> Pool:
        """Connections to engines and to other gateways."""
        return self._pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        endpoint = _HOT.get(scope["path"])
        if endpoint is not None and scope["method"] == "POST":
            await self._inference(endpoint, scope, receive, send)
        else:
            await self._other(scope, receive, send)

    async def aclose(self) -> None:
        self._probes.close()
        await self._board.aclose()
        await self._store.aclose()
        self._pool.close()

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything but inference: pages and refusals."""
        started_s = self._clock()
        path, method = scope["path"], scope["method"]
        controls = control_route(path)
        route = controls.template if controls else path if path in _HOT else self._pages.route_of(path)
        shown = method if method in _METHODS else "OTHER"
        trace = begin_request(shown, route or UNKNOWN_ROUTE, scope["headers"])
        asked, refusal = read_headers(scope["headers"])
        internal = self._admission.is_internal(asked)
        caller = self._admission.admit(route, method, scope["headers"], asked, internal=internal)
        posted = self._posted(scope, receive, asked)
        answer: Page | ApiError
        if isinstance(caller, ApiError):
            answer = caller
        elif refusal is not None:
            answer = refusal
        elif controls is not None:
            answer = await self._controlled(controls, method, scope, posted, key_id=caller.key_id)
        else:
            answer = await self._page(path, method, route, internal=internal, posted=posted)
        own = own_headers(trace.trace_id, asked.request_id if self._names_requests else None)
        if isinstance(answer, ApiError):
            status = answer.status
            await send_whole(send, status, [*answer.headers(), *own], answer.body())
        else:
            status = answer.status
            await send_whole(send, status, [answer.content_type, *answer.headers, *own], answer.body)
        trace.end(status=status)
        self._meters.http(route or UNKNOWN_ROUTE, shown, status, self._clock() - started_s)

    async def _page(
        self, path: str, method: str, route: str | None, *, internal: bool, posted: Callable[[], Awaitable[Posted]]
    ) -> Page | ApiError:
        if route is None:
            known = ", ".join(sorted((*_HOT, *self._pages.paths)))
            return not_found(f"Unknown path '{path[:128]}'. Known: {known}.", code="unknown_path")
        if path in _HOT:
            return method_not_allowed(method, path, "POST")
        if method == "POST" and path in self._pages.posts:
            body = await posted()
            return body if isinstance(body, ApiError) else await self._pages.post(path, body)
        allowed = self._pages.methods(route)
        if ("GET" if method == "HEAD" else method) not in allowed:
            return method_not_allowed(method, path, ", ".join(allowed))
        return await self._pages.answer(path, internal=internal)

    async def _controlled(
        self, route: ControlRoute, method: str, scope: Scope, posted: Callable[[], Awaitable[Posted]], *, key_id: str
    ) -> Page | ApiError:
        if ("GET" if method == "HEAD" else method) not in route.methods:
            return method_not_allowed(method, scope["path"], ", ".join(route.methods))
        body: Posted = b""
        if method not in ("GET", "HEAD"):
            body = await posted()
        if isinstance(body, ApiError):
            return body
        try:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=_MAX_QUERY_FIELDS))
        except ValueError:
            return invalid(f"The query has more than {_MAX_QUERY_FIELDS} fields.")
        return await self._pages.control(
            ControlAsked(method=method, path=scope["path"], query=query, body=body, key_id=key_id)
        )

    def _posted(self, scope: Scope, receive: Receive, asked: Asked) -> Callable[[], Awaitable[Posted]]:
        """Reads the body when it is wanted. Only JSON: a page of another site can post anything else by itself."""

        async def read() -> Posted:
            content_type = dict(scope["headers"]).get(b"content-type", b"").split(b";")[0].strip().lower()
            if content_type != b"application/json":
                return invalid("The body must be JSON, with the header `content-type: application/json`.")
            body = await self._bodies.read(receive, content_length=asked.content_length)
            return b"" if body is None else body

        return read


def make_store(settings: Settings, *, clock: Callable[[], float], on_expired: Callable[[str], None]) -> Store:
    """Redis where the configuration names one, else this process's memory."""
    if settings.cache.redis_url is not None:
        max_entry_bytes = KEPT_BYTES + ENTRY_OVERHEAD_BYTES
        return RedisStore.from_url(settings.cache.redis_url, clock=clock, max_entry_bytes=max_entry_bytes)
    return MemoryStore(max_bytes=settings.cache.max_bytes, clock=clock, on_expired=on_expired)


def recorded(store: Store, settings: Settings, *, clock: Callable[[], float]) -> Store:
    """The store, with a log of its look-ups where the configuration names a file."""
    file = settings.cache.record_file
    if file is None:
        return store
    log = file.with_name(f"{file.name}.{os.getpid()}").open("w", encoding="utf-8")
    return RecordingStore(store, log, clock=clock, max_bytes=settings.cache.record_max_bytes)


def _urls(table: RoutingTable) -> list[str]:
    return [*(backend.url for backend in table.backends), *(peer.url for peer in table.peers)]
