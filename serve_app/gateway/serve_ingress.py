"""What stands between Serve's HTTP server and its handling of a request: the gateway watches its clients itself.

Serve would start two tasks per request to learn that a client has left. The gateway has its own watch, which
also ends the run in the engine, so Serve is told not to. Serve imports this file in every replica by the
variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH; without it all works as well, a little slower.
"""

from __future__ import annotations

from starlette.middleware import Middleware

from serve_app.gateway.asgi import ASGIApp, Receive, Scope, Send

_WATCHES_ITSELF = (b"x-request-disconnect-disabled", b"?1")


class OwnWatch:
    """Adds the header by which Serve leaves the client's going to the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"].append(_WATCHES_ITSELF)
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Called by Serve when it starts a replica's HTTP server."""
    return [Middleware(OwnWatch)]
