"""Failing engines seen from the address: breakers, waits that engines ask for, deadlines of modes (threat 14)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from serve_app.engines.scripted import Behaviour
from serve_app.gateway.breakers import BreakerState
from tests.serve_app.gateway.builders import backend, chat, settings
from tests.serve_app.gateway.serving import free_url, stage


@contextlib.asynccontextmanager
async def _asks_for_rest(seconds: int, came: list[bytes]) -> AsyncIterator[str]:
    """A replica that answers 503 with `Retry-After` to everything."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                came.append(await reader.readuntil(b"}]"))
                await reader.readuntil(b"}")
                writer.write(b"HTTP/1.1 503 x\r\nretry-after: %d\r\ncontent-length: 0\r\n\r\n" % seconds)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class TestAFailingReplica:
    async def test_is_left_alone_after_five_failures_in_a_row_and_others_are_untouched(self) -> None:
        async with stage("mini", "mini", "small") as on:
            bad, _, _ = on.engines
            bad.behaviour = Behaviour.ERROR_500
            statuses = [(await on.chat(chat("mini", text=str(number)))).status_code for number in range(40)]
            assert statuses.count(500) == bad.counts.num_started == 5
            on.gateway.show_breakers()
            (delta,) = on.recorder.drain()
            assert delta.gauges["headroom_breaker_state", ("mini@node",)] == BreakerState.OPEN
            assert delta.gauges["headroom_breaker_state", ("small@node",)] == BreakerState.CLOSED

    async def test_that_is_the_last_one_goes_on_being_asked(self) -> None:
        async with stage("mini") as on:
            on.engine.behaviour = Behaviour.ERROR_500
            for number in range(8):
                await on.chat(chat("mini", text=str(number)))
            assert on.engine.counts.num_started == 8

    async def test_that_is_the_last_one_sends_requests_of_modes_to_another_model(self) -> None:
        async with stage("mini", "small", of=settings(candidates={"fast": ("mini", "small")})) as on:
            on.engines[0].behaviour = Behaviour.ERROR_500
            for number in range(5):
                await on.chat(chat("mini", text=str(number)))
            answer = await on.chat(chat("fast", text="new"))
            assert (answer.status_code, answer.headers["x-headroom-model"]) == (200, "small")
            assert answer.headers["x-headroom-downshifted-from"] == "mini"

    async def test_is_not_at_fault_for_what_the_caller_did_wrong(self) -> None:
        async with stage("mini", "mini") as on:
            on.engines[0].behaviour = Behaviour.ERROR_400
            for number in range(20):
                await on.chat(chat("mini", text=str(number)))
            assert on.gateway._loads.state("mini#0") is BreakerState.CLOSED

    async def test_is_counted_once_for_each_retry(self) -> None:
        dead = backend("mini", url=free_url(), number=9)
        async with stage("mini", dead=(dead,)) as on:
            for number in range(2):
                assert (await on.chat(chat("mini", text=str(number)))).status_code == 200
            assert on.counted("headroom_retries_total", "mini") == 1


class TestAReplicaThatAsksForRest:
    async def test_gets_it_while_another_answers(self) -> None:
        came: list[bytes] = []
        async with (
            _asks_for_rest(30, came) as url,
            stage("mini", dead=(backend("mini", url=url, number=9),)) as on,
        ):
            statuses = {(await on.chat(chat("mini", text=str(number)))).status_code for number in range(10)}
            assert statuses == {200}
            assert len(came) == 1
            assert on.gateway._loads.state("mini#9") is BreakerState.CLOSED, "it is not broken"

    async def test_has_its_time_passed_on_when_there_is_no_other(self) -> None:
        async with _asks_for_rest(7, []) as url, stage(dead=(backend("mini", url=url),)) as on:
            answer = await on.chat(chat("mini"))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


class TestADeadline:
    async def test_of_a_mode_goes_before_the_gateways(self) -> None:
        of = settings()
        modes = tuple(
            dataclasses.replace(mode, first_token_timeout_s=0.05 if mode.name == "fast" else None) for mode in of.modes
        )
        async with stage("mini", of=dataclasses.replace(of, modes=modes)) as on:
            on.engine.behaviour = Behaviour.SLOW_FIRST_TOKEN
            on.engine.first_token_s = 0.3
            assert (await on.chat(chat("fast"))).status_code == 504
            assert (await on.chat(chat("balanced"))).status_code == 200
