"""The server inside a replica: on the port that was asked for, or on another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from serve_app.http_server import HttpServer
from tests.serve_app.gateway.serving import free_url


async def nothing(scope: Mapping[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class TestPort:
    async def test_it_listens_on_the_port_that_was_asked_for(self) -> None:
        wanted = free_url()
        server = HttpServer(nothing)
        await server.start(host="127.0.0.1", port=int(wanted.rpartition(":")[2]))
        assert server.url == wanted
        await server.stop()

    async def test_where_the_port_is_taken_it_listens_on_another(self) -> None:
        first, second = HttpServer(nothing), HttpServer(nothing)
        await first.start(host="127.0.0.1")
        await second.start(host="127.0.0.1", port=int(first.url.rpartition(":")[2]))
        async with httpx.AsyncClient() as client:
            assert second.url != first.url
            assert (await client.get(second.url)).status_code == 204
        await first.stop()
        await second.stop()
