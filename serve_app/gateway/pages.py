"""The routes beside inference: lists, health, information, metrics, apply.

Not the hot path; each answers from the last known state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import orjson
from pydantic import ValidationError

from serve_app.api.control_routes import CONTROL_ROUTES, ControlAsked
from serve_app.api.errors import ApiError, Origin, invalid, not_found, unavailable
from serve_app.api.health import health_page
from serve_app.api.model_list import model_list, one_model
from serve_app.api.openapi import openapi_document
from serve_app.api.wire import ApplyOutcome, ApplyRequest, ModelAction, ModelOutcome, ModelRequest, RouteAsked
from serve_app.config.settings import Settings
from serve_app.gateway.answer_headers import JSON
from serve_app.gateway.cache import Store
from serve_app.gateway.cache_stats import local_stats, summed
from serve_app.gateway.catalog import Catalog
from serve_app.gateway.control import ControlPlane
from serve_app.gateway.meters import Meters
from serve_app.gateway.peers import Peers
from serve_app.gateway.routing_table import Peer
from serve_app.gateway.semantic_cache import SemanticCache
from serve_app.gateway.steering import summed_downshifts
from tracing.collector import fleet_families

CONTROL_TIMEOUT_S: Final = 5.0
HEALTH_TIMEOUT_S: Final = 0.5
APPLY_TIMEOUT_S: Final = 120.0
"""Planning reads every checkpoint once."""
_APPLY_STATUS: Final = {
    ApplyOutcome.PROPOSED: HTTPStatus.OK,
    ApplyOutcome.ACCEPTED: HTTPStatus.ACCEPTED,
    ApplyOutcome.INVALID: HTTPStatus.BAD_REQUEST,
    ApplyOutcome.REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ApplyOutcome.BUSY: HTTPStatus.CONFLICT,
}
ACT_TIMEOUT_S: Final = 30.0
LONG_ACTS_S: Final = {"/models/reload": 150.0, "/admin/scaling": 240.0}
"""They answer when they are done."""
_ACT_STATUS: Final = {
    ModelOutcome.DONE: HTTPStatus.OK,
    ModelOutcome.ACCEPTED: HTTPStatus.ACCEPTED,
    ModelOutcome.REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ModelOutcome.UNKNOWN: HTTPStatus.NOT_FOUND,
    ModelOutcome.BUSY: HTTPStatus.CONFLICT,
}
_METRICS: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
DOWNSHIFT_STATS: Final = "/admin/downshift/stats"
_MODEL: Final = "/v1/models/"
MODEL_ROUTE: Final = _MODEL + "{id}"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    body: bytes
    content_type: tuple[bytes, bytes] = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Pages:
    """`created` is when this gateway started, Unix time in seconds."""

    def __init__(
        self,
        *,
        settings: Settings,
        control: ControlPlane,
        store: Store,
        semantic: SemanticCache,
        meters: Meters,
        peers: Peers,
        explain: Callable[[RouteAsked], Awaitable[dict[str, Any] | ApiError]],
        downshift_stats: Callable[[], dict[str, Any]],
        replica: str,
        created: int,
    ) -> None:
        self._settings = settings
        self._control = control
        self._store = store
        self._semantic = semantic
        self._meters = meters
        self._peers = peers
        self._explain = explain
        self._own_downshifts = downshift_stats
        self._replica = replica
        self._created = created
        self._catalog = Catalog(models={}, modes={}, serving={})
        self._others: tuple[Peer, ...] = ()
        self._routes: Mapping[str, Callable[[], Awaitable[Page | ApiError]]] = {
            "/v1/models": self._models,
            "/health": self._health,
            "/models/info": self._models_info,
            "/admin/fleet": self._fleet,
            "/admin/cache/stats": self._cache_stats,
            DOWNSHIFT_STATS: self._downshift_stats,
            "/metrics": self._metrics,
            "/metrics/mma": self._fleet_metrics,
            "/admin/apply": self._applying,
            "/openapi.json": self._openapi,
        }
        self._posts: Mapping[str, Callable[[bytes], Awaitable[Page | ApiError]]] = {
            "/admin/apply": self._apply,
            "/admin/route/explain": self._explained,
            **{f"/models/{action.value}": partial(self._act, action) for action in ModelAction},
        }

    @property
    def paths(self) -> frozenset[str]:
        return frozenset((*self._routes, *self._posts, *(route.template for route in CONTROL_ROUTES)))

    @property
    def posts(self) -> frozenset[str]:
        """Paths that take POST too."""
        return frozenset(self._posts)

    def update(self, catalog: Catalog, peers: tuple[Peer, ...], settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._others = tuple(peer for peer in peers if peer.replica != self._replica)

    def route_of(self, path: str) -> str | None:
        """The route's template, or None when the path is not one of these."""
        if path in self._routes or path in self._posts:
            return path
        return MODEL_ROUTE if path.startswith(_MODEL) and len(path) > len(_MODEL) else None

    def methods(self, route: str) -> tuple[str, ...]:
        """What may be done to a route that `route_of` gave; where GET may, HEAD may too."""
        reads = ("GET",) if route not in self._posts or route in self._routes else ()
        return (*reads, "POST") if route in self._posts else reads

    async def answer(self, path: str, *, internal: bool) -> Page | ApiError:
        """`internal`: asked by a peer gateway, which wants this replica's own figures only."""
        if path == "/admin/cache/stats" and internal:
            return _json(self._own_stats())
        if path == DOWNSHIFT_STATS and internal:
            return _json(self._own_downshifts())
        route = self._routes.get(path)
        return await route() if route is not None else self._one_model(unquote(path.removeprefix(_MODEL)))

    async def post(self, path: str, body: bytes) -> Page | ApiError:
        return await self._posts[path](body)

    async def control(self, asked: ControlAsked) -> Page | ApiError:
        """A route of the controller, passed on."""
        timeout_s = CONTROL_TIMEOUT_S if asked.method == "GET" else LONG_ACTS_S.get(asked.path, ACT_TIMEOUT_S)
        answer = await self._asked(self._control.ask(asked), timeout_s=timeout_s)
        if answer is None:
            return _away()
        headers = dict(answer.headers)
        content_type = headers.pop(b"content-type", JSON[1])
        return Page(answer.status, answer.body, (JSON[0], content_type), tuple(headers.items()))

    async def _applying(self) -> Page | ApiError:
        return _json_or_away(await self._asked(self._control.applying()))

    async def _apply(self, body: bytes) -> Page | ApiError:
        try:
            asked = ApplyRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"]) or "body"
            return invalid(f"{place}: {first['msg']}. Expected `args`, `config_dir` and `dry_run`.", param=place)
        told = await self._asked(self._control.apply(asked), timeout_s=APPLY_TIMEOUT_S)
        return _json(told, _APPLY_STATUS[ApplyOutcome(told["outcome"])]) if told is not None else _away()

    async def _act(self, action: ModelAction, body: bytes) -> Page | ApiError:
        try:
            asked = ModelRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"]) or "body"
            return invalid(f"{place}: {first['msg']}. Expected `model`, the id of a model.", param=place)
        told = await self._asked(self._control.act(action, asked.model), timeout_s=ACT_TIMEOUT_S)
        return _json(told, _ACT_STATUS[ModelOutcome(told["outcome"])]) if told is not None else _away()

    async def _openapi(self) -> Page:
        return _json(openapi_document(reads=(*self._routes, MODEL_ROUTE), posts=self._posts))

    async def _models(self) -> Page:
        return _json(model_list(self._catalog, created=self._created))

    def _one_model(self, name: str) -> Page | ApiError:
        model = one_model(name, self._catalog, created=self._created)
        if model is not None:
            return _json(model)
        message = f"Unknown model '{name[:128]}'. Valid values: {self._catalog.names}."
        return not_found(message, param="model", code="model_not_found")

    async def _health(self) -> Page:
        told = await self._asked(self._control.health(), timeout_s=HEALTH_TIMEOUT_S)
        status, body = health_page(self._catalog, told)
        return _json(body, status)

    async def _models_info(self) -> Page | ApiError:
        return _json_or_away(await self._asked(self._control.models_info()))

    async def _fleet(self) -> Page | ApiError:
        return _json_or_away(await self._asked(self._control.fleet()))

    async def _metrics(self) -> Page | ApiError:
        text = await self._asked(self._control.metrics())
        return Page(HTTPStatus.OK, text, _METRICS) if text is not None else _away()

    async def _fleet_metrics(self) -> Page | ApiError:
        """Row E3: the collectors of devices, models and infrastructure alone."""
        text = await self._asked(self._control.metrics())
        return Page(HTTPStatus.OK, fleet_families(text), _METRICS) if text is not None else _away()

    async def _cache_stats(self) -> Page:
        pages = await asyncio.gather(*(self._peers.page(peer, "/admin/cache/stats") for peer in self._others))
        return _json(summed(self._own_stats(), [orjson.loads(page) if page else None for page in pages]))

    async def _downshift_stats(self) -> Page:
        pages = await asyncio.gather(*(self._peers.page(peer, DOWNSHIFT_STATS) for peer in self._others))
        return _json(
            summed_downshifts(self._own_downshifts(), [orjson.loads(page) if page else None for page in pages])
        )

    async def _explained(self, body: bytes) -> Page | ApiError:
        try:
            asked = RouteAsked.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"]) or "body"
            return invalid(f"{place}: {first['msg']}. Expected `request`, the body of a request.", param=place)
        told = await self._explain(asked)
        return told if isinstance(told, ApiError) else _json(told)

    def _own_stats(self) -> dict[str, Any]:
        return local_stats(self._settings, self._meters.cache, self._store, self._semantic.stats())

    async def _asked(self, answer: Awaitable[T], *, timeout_s: float = CONTROL_TIMEOUT_S) -> T | None:
        """The controller's answer, or None when it does not come: its failures are not ours to pass on."""
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except Exception:  # noqa: BLE001  # whatever the shell's transport raises means the same here
            return None


def _json(value: object, status: int = HTTPStatus.OK) -> Page:
    return Page(status, orjson.dumps(value))


def _json_or_away(value: Mapping[str, Any] | None) -> Page | ApiError:
    return _json(value) if value is not None else _away()


def _away() -> ApiError:
    message = "The controller does not answer. Requests to models are served on; try this page again."
    return unavailable(message, code="controller_unreachable", retry_after_s=2, origin=Origin.CONTROLLER)
