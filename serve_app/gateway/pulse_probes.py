"""Asks silent engine replicas a tiny question, to tell a hung one from a busy one. A shell around `hangs`.

Its timer runs only while requests are with engines or an answer is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson

from serve_app.engines.protocol import Endpoint
from serve_app.gateway.loads import Loads
from serve_app.gateway.request_heads import engine_head
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.upstream import Connection, Pool, address_of

_LOOKS_PER_SILENCE: Final = 8
_REQUEST_ID: Final = b"headroom-pulse"


class PulseProbes:
    def __init__(self, *, loads: Loads, pool: Pool, hang_after_s: float) -> None:
        self._loads = loads
        self._pool = pool
        self._every_s = hang_after_s / _LOOKS_PER_SILENCE
        self._limit_s = hang_after_s
        self._backends: dict[str, Backend] = {}
        self._secret = ""
        self._timer: asyncio.TimerHandle | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}

    def update(self, backends: tuple[Backend, ...], secret: str) -> None:
        self._backends = {backend.replica: backend for backend in backends}
        self._secret = secret

    def wake(self) -> None:
        """Requests go out: watch."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._asking.values():
            task.cancel()

    def _look(self) -> None:
        self._timer = None
        due = self._loads.look()
        for replica in due:
            backend = self._backends.get(replica)
            if backend is not None:
                self._ask(backend)
        if self._loads.num_in_flight or self._asking or due:
            self.wake()

    def _ask(self, backend: Backend) -> None:
        before = self._asking.get(backend.replica)
        if before is not None:
            before.cancel()
        task = asyncio.get_running_loop().create_task(self._asked(backend))
        self._asking[backend.replica] = task
        task.add_done_callback(lambda done: self._done(backend.replica, done))

    def _done(self, replica: str, task: asyncio.Task[None]) -> None:
        if self._asking.get(replica) is task:
            del self._asking[replica]

    async def _asked(self, backend: Backend) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                address = address_of(backend.url)
                connection = self._pool.take(address) or await self._pool.connect(address)
                if await self._answers(backend, connection):
                    self._loads.answered(backend.replica)
        except OSError:  # TimeoutError included: the next look finds the answer late
            return

    async def _answers(self, backend: Backend, connection: Connection) -> bool:
        body = orjson.dumps({"model": backend.model, "prompt": "1", "max_tokens": 1, "temperature": 0.0})
        head = engine_head(
            url=backend.url,
            path=Endpoint.COMPLETION,
            secret=self._secret,
            num_bytes=len(body),
            request_id=_REQUEST_ID,
            trace_headers={},
        )
        answer = _Answer()
        try:
            connection.send(head + body, answer)
            return await answer.good
        except asyncio.CancelledError:
            connection.abort()
            raise


class _Answer:
    """`good` says whether a whole 200 came."""

    def __init__(self) -> None:
        self.good: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._status = 0

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status

    def on_data(self, data: bytes) -> None:
        """What it says does not matter."""

    def on_end(self) -> None:
        self._settle(self._status == HTTPStatus.OK)

    def on_lost(self) -> None:
        self._settle(False)

    def _settle(self, good: bool) -> None:
        if not self.good.done():
            self.good.set_result(good)
