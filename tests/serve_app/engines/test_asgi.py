"""The engine's own HTTP face: who may ask, what is passed on, and what happens when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from serve_app.engines.asgi import EngineServer
from serve_app.engines.protocol import Endpoint, Reloaded, Stream, Unary
from serve_app.engines.weights_switch import WeightsSwitch
from serve_app.fleet.measurements import HeldBytes

SECRET = "s3cret"


class ScriptedStub:
    """An engine of three lines: answers, streams, or waits for ever, and notes what it was given."""

    def __init__(self) -> None:
        self.is_alive = True
        self.seen: list[Mapping[str, str]] = []
        self.running = 0
        self.closed_streams = 0

    async def start(self) -> None: ...
    async def warm_up(self) -> None: ...
    async def stop(self) -> None: ...
    def alive(self) -> bool:
        return self.is_alive

    async def held_bytes(self) -> HeldBytes | None:
        return None

    def process_ids(self) -> tuple[int, ...]:
        return ()

    async def reload(self, checkpoint: Path, *, drain_s: float) -> Reloaded:
        raise NotImplementedError("no test here changes weights")

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream:
        self.seen.append(headers)
        asked = orjson.loads(body)
        if asked.get("hang"):
            self.running += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.running -= 1
        if asked.get("stream"):
            return Stream(self._events(asked["stream"]))
        return Unary(200, orjson.dumps({"endpoint": endpoint.value}))

    async def _events(self, count: int) -> AsyncIterator[bytes]:
        try:
            for index in range(count):
                yield b"data: %d\n\n" % index
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        finally:
            self.closed_streams += 1


class Exchange:
    """One ASGI request driven by hand."""

    def __init__(
        self, server: EngineServer, path: str, body: Mapping[str, Any], *, secret: str | None = SECRET
    ) -> None:
        headers = [(b"traceparent", b"00-1-2-01"), (b"x-request-id", b"abc"), (b"x-other", b"no")]
        if secret is not None:
            headers.append((b"x-headroom-internal", secret.encode()))
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._body: bytes | None = orjson.dumps(body)
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        self.task = asyncio.create_task(server(scope, self._receive, self._send))

    async def _receive(self) -> Mapping[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition, not only an event
            await asyncio.sleep(0)


def server_of(engine: ScriptedStub, *, traced: bool = False) -> EngineServer:
    switch = WeightsSwitch(engine, model="mini", path=Path("abc123"), version="abc123")
    return EngineServer(engine, secret=SECRET, switch=switch, traced=traced)


class TestWhoMayAsk:
    async def test_without_the_secret_nothing_reaches_the_engine(self) -> None:
        engine = ScriptedStub()
        for secret in (None, "", "wrong", SECRET + "x"):
            exchange = Exchange(server_of(engine), Endpoint.CHAT, {}, secret=secret)
            await exchange.task
            assert exchange.status == 403
        assert engine.seen == []

    async def test_a_dead_engine_is_503_at_once(self) -> None:
        engine = ScriptedStub()
        engine.is_alive = False
        exchange = Exchange(server_of(engine), Endpoint.CHAT, {})
        await exchange.task
        assert exchange.status == 503

    async def test_a_closed_face_takes_no_new_work(self) -> None:
        server = server_of(ScriptedStub())
        server.refuse_all()
        exchange = Exchange(server, Endpoint.CHAT, {})
        await exchange.task
        assert exchange.status == 503

    async def test_an_unknown_route_is_404(self) -> None:
        exchange = Exchange(server_of(ScriptedStub()), "/v1/embeddings", {})
        await exchange.task
        assert exchange.status == 404


class TestWhileWeightsChange:
    async def test_a_request_waits_at_the_gate_and_runs_when_it_opens(self) -> None:
        server = server_of(ScriptedStub())
        await Exchange(server, "/control/close", {"deadline_s": 60}).task
        waiting = Exchange(server, Endpoint.CHAT, {})
        await until(lambda: server.num_in_flight == 1)
        assert waiting.sent == []
        opened = Exchange(server, "/control/open", {"version": "abc123"})
        await asyncio.gather(opened.task, waiting.task)
        assert (opened.status, waiting.status) == (200, 200)

    async def test_who_waits_when_the_replica_ends_is_told_so(self) -> None:
        server = server_of(ScriptedStub())
        await Exchange(server, "/control/close", {"deadline_s": 60}).task
        waiting = Exchange(server, Endpoint.CHAT, {})
        await until(lambda: server.num_in_flight == 1)
        server.refuse_all()
        await waiting.task
        assert waiting.status == 503
        assert (b"retry-after", b"1") in waiting.sent[0]["headers"]

    async def test_without_the_secret_the_gate_stays_as_it_is(self) -> None:
        server = server_of(ScriptedStub())
        closing = Exchange(server, "/control/close", {"deadline_s": 60}, secret="wrong")
        await closing.task
        asked = Exchange(server, Endpoint.CHAT, {})
        await asked.task
        assert (closing.status, asked.status) == (403, 200)


class TestAnswers:
    async def test_an_answer_names_the_weights_that_gave_it(self) -> None:
        exchange = Exchange(server_of(ScriptedStub()), Endpoint.COMPLETION, {})
        await exchange.task
        assert (b"x-headroom-weights-version", b"abc123") in exchange.sent[0]["headers"]
        assert orjson.loads(exchange.sent[1]["body"]) == {"endpoint": "/v1/completions"}

    async def test_only_named_headers_are_passed_on(self) -> None:
        engine = ScriptedStub()
        await Exchange(server_of(engine), Endpoint.CHAT, {}).task
        await Exchange(server_of(engine, traced=True), Endpoint.CHAT, {}).task
        assert engine.seen == [{"x-request-id": "abc"}, {"x-request-id": "abc", "traceparent": "00-1-2-01"}]


class TestTheClientGoes:
    async def test_a_unary_run_is_cancelled(self) -> None:
        engine = ScriptedStub()
        server = server_of(engine)
        exchange = Exchange(server, Endpoint.CHAT, {"hang": True})
        await until(lambda: engine.running == 1)
        exchange.gone.set()
        await exchange.task
        assert (engine.running, server.num_in_flight) == (0, 0)

    async def test_a_stream_is_closed(self) -> None:
        engine = ScriptedStub()
        server = server_of(engine)
        exchange = Exchange(server, Endpoint.CHAT, {"stream": 3})
        await until(lambda: len(exchange.sent) == 4)
        exchange.gone.set()
        await exchange.task
        assert (engine.closed_streams, server.num_in_flight) == (1, 0)
