"""Routes that the controller answers itself, passed on by the gateway: state of the fleet, and acts on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson

from serve_app.api.errors import ApiError

PART: Final = "{id}"


@dataclass(frozen=True, slots=True)
class ControlRoute:
    """`template` is also the route's name in metrics and traces; `{id}` stands for one part of a path."""

    template: str
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAsked:
    method: str
    path: str
    """Unquoted."""
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    key_id: str = ""
    """Of the caller's key, which the gateway has checked; empty while there are no keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAnswer:
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


CONTROL_ROUTES: Final = (
    ControlRoute("/v1/fleet", ("GET",)),
    ControlRoute("/v1/plan", ("GET",)),
    ControlRoute("/v1/alerts", ("GET",)),
    ControlRoute("/v1/objectives", ("GET",)),
    ControlRoute("/v1/leases", ("GET", "POST")),
    ControlRoute("/v1/leases/{id}", ("DELETE",)),
    ControlRoute("/v1/leases/{id}/renew", ("POST",)),
    ControlRoute("/v1/jobs", ("GET", "POST")),
    ControlRoute("/v1/jobs/review", ("GET",)),
    ControlRoute("/v1/jobs/{id}", ("GET", "DELETE")),
    ControlRoute("/v1/jobs/{id}/logs", ("GET",)),
    ControlRoute("/v1/jobs/{id}/cancel", ("POST",)),
    ControlRoute("/v1/goals", ("GET", "POST")),
    ControlRoute("/v1/goals/{id}", ("GET", "DELETE")),
    ControlRoute("/v1/comparisons", ("GET",)),
    ControlRoute("/v1/rollouts", ("GET", "POST")),
    ControlRoute("/v1/rollouts/{id}", ("GET",)),
    ControlRoute("/v1/rollouts/{id}/promote", ("POST",)),
    ControlRoute("/v1/rollouts/{id}/rollback", ("POST",)),
    ControlRoute("/v1/rollouts/{id}/pause", ("POST",)),
    ControlRoute("/v1/rollouts/{id}/resume", ("POST",)),
    ControlRoute("/models/reload", ("POST",)),
    ControlRoute("/admin/cordon", ("POST",)),
    ControlRoute("/admin/drain", ("POST",)),
    ControlRoute("/admin/uncordon", ("POST",)),
    ControlRoute("/admin/forget", ("POST",)),
    ControlRoute("/admin/scaling", ("GET", "POST")),
    ControlRoute("/admin/cache/ttl", ("POST",)),
    ControlRoute("/admin/keys", ("GET", "POST")),
    ControlRoute("/admin/keys/{id}", ("GET", "DELETE")),
)


def control_route(path: str) -> ControlRoute | None:
    parts = path.split("/")
    return next((route for route in CONTROL_ROUTES if _matches(route.template.split("/"), parts)), None)


def json_answer(value: Any, status: int = HTTPStatus.OK) -> ControlAnswer:
    return ControlAnswer(status=status, body=orjson.dumps(value))


def error_answer(error: ApiError) -> ControlAnswer:
    return ControlAnswer(status=error.status, body=error.body(), headers=tuple(error.headers()))


def _matches(template: list[str], parts: list[str]) -> bool:
    return len(template) == len(parts) and all(
        want == part or (want == PART and bool(part)) for want, part in zip(template, parts, strict=True)
    )
