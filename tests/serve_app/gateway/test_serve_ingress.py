"""What Ray Serve makes of the middleware; asked of Serve's own functions, so that a new Ray cannot change it unseen."""

from __future__ import annotations

from typing import Any

from ray.serve._private.http_util import parse_disconnect_disabled_header, validate_http_proxy_callback_return

from serve_app.gateway.serve_ingress import OwnWatch, middlewares


async def _scope_after(kind: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"type": kind, "headers": [(b"host", b"x")]}
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> Any:
        raise AssertionError("the middleware neither reads nor sends")

    await OwnWatch(app)(scope, nothing, nothing)
    return seen[0]


class TestOwnWatch:
    async def test_serve_leaves_the_watch_over_the_client_to_the_gateway(self) -> None:
        scope = await _scope_after("http")
        assert parse_disconnect_disabled_header(dict(scope["headers"]))

    async def test_what_is_no_request_passes_unchanged(self) -> None:
        assert (await _scope_after("websocket"))["headers"] == [(b"host", b"x")]

    def test_serve_takes_what_the_callback_returns(self) -> None:
        (one,) = validate_http_proxy_callback_return(middlewares())
        assert one.cls is OwnWatch
