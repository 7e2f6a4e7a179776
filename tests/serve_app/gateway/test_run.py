"""One engine run by itself, its connection played by hand: what it does when nobody reads."""

from __future__ import annotations

import asyncio
from typing import cast

from serve_app.gateway.flight import MAX_LAG_BYTES, Flight
from serve_app.gateway.loads import Loads, RetryBudget
from serve_app.gateway.run import Run
from serve_app.gateway.run_terms import Deadlines, Engines, Report
from serve_app.gateway.upstream import Address, Connection, Pool, Sink
from tests.serve_app.gateway.builders import backend, catalog, chat, decided

EVENT = b"data: " + b"x" * 1000 + b"\n\n"


class PlayedConnection:
    """Stands for a pooled connection; remembers what the run asked of it."""

    num_requests = 1

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sink: Sink | None = None

    def send(self, request: bytes, sink: Sink) -> None:
        self.sink = sink

    def abort(self) -> None:
        self.asked.append("abort")

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")


class OneConnection(Pool):
    def __init__(self, connection: PlayedConnection) -> None:
        super().__init__()
        self._connection = connection

    def take(self, address: Address) -> Connection | None:
        return cast("Connection", self._connection)


def _started(deadlines: Deadlines) -> tuple[Flight, PlayedConnection, list[Report]]:
    """A run of a stream whose head has come."""
    connection, reports, flight = PlayedConnection(), list[Report](), Flight()
    engines = Engines(
        pool=OneConnection(connection), loads=Loads(lambda: 0.0), retries=RetryBudget(), deadlines=deadlines
    )
    decision = decided(chat("mini", stream=True), catalog(backend("mini")))
    run = Run(engines=engines, decision=decision, flight=flight, request_head=lambda one: b"", on_ended=reports.append)
    run.start()
    assert connection.sink is not None
    connection.sink.on_head(200, {b"content-type": b"text/event-stream"})
    return flight, connection, reports


class TestAClientThatDoesNotRead:
    async def test_pauses_the_engine_and_lets_it_go_on_once_it_reads(self) -> None:
        flight, connection, reports = _started(Deadlines(first_token_s=9, between_tokens_s=9))
        reader = flight.attach()
        assert connection.sink is not None
        for _ in range(MAX_LAG_BYTES // len(EVENT) + 1):
            connection.sink.on_data(EVENT)
        assert connection.asked == ["pause"]
        assert len(await reader.next()) > MAX_LAG_BYTES
        assert connection.asked == ["pause", "resume"]
        flight.detach(reader)
        assert reports[0].cancelled

    async def test_loses_the_run_after_a_while(self) -> None:
        flight, connection, reports = _started(Deadlines(first_token_s=9, between_tokens_s=0.01, unread_s=0.05))
        flight.attach()
        assert connection.sink is not None
        for _ in range(MAX_LAG_BYTES // len(EVENT) + 1):
            connection.sink.on_data(EVENT)
        async with asyncio.timeout(5):
            while not flight.finished:  # noqa: ASYNC110  # the end is a plain field
                await asyncio.sleep(0.005)
        assert connection.asked == ["pause", "abort"]
        assert reports[0].failure is not None
        assert reports[0].failure.code == "client_too_slow"
