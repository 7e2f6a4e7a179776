"""The time a request spends in its gateway, which the number of gateways is scaled by."""

from __future__ import annotations

import asyncio

from tests.serve_app.gateway.builders import chat
from tests.serve_app.gateway.serving import Stage, stage, until
from tracing import names


def overheads(on: Stage) -> tuple[int, float]:
    """How many requests were counted, and their seconds together."""
    (delta,) = on.recorder.drain()
    totals = delta.histograms[names.GATEWAY_OVERHEAD.name, ()]
    return sum(totals.counts), totals.total


def away_s(on: Stage) -> float:
    """What was left out of all these requests' time together: engines, and waiting for them."""
    (delta,) = on.recorder.drain()
    seconds = [value for (name, _), value in delta.counters.items() if name == names.INFERENCE_REQUEST_SECONDS.name]
    return sum(seconds) - overheads(on)[1]


class TestOverhead:
    async def test_is_without_the_engines_own_time(self) -> None:
        async with stage("mini", num_words=10, token_s=0.02) as on:
            for stream in (False, True):
                await on.chat(chat(stream=stream))
            assert overheads(on)[0] == 2
            assert away_s(on) > 2 * 10 * 0.02 * 0.95

    async def test_is_without_the_wait_for_an_engine(self) -> None:
        """Eight run at once, so eight more wait as long as those take."""
        async with stage("mini", num_words=10, token_s=0.02) as on:
            await asyncio.gather(*(on.chat(chat(text=str(number))) for number in range(16)))
            assert overheads(on)[0] == 16
            assert away_s(on) > (8 + 8 * 2) * 10 * 0.02 * 0.9

    async def test_is_all_of_a_hit(self) -> None:
        async with stage("mini") as on:
            await on.chat(chat())
            await on.chat(chat())
            assert overheads(on)[0] == 2

    async def test_is_not_counted_of_what_was_refused_or_shares_the_run_of_another(self) -> None:
        async with stage("mini") as on:
            await on.chat(chat("nobody"))
            on.engine.gate = asyncio.Event()
            asking = [asyncio.ensure_future(on.chat(chat())) for _ in range(3)]
            await until(lambda: on.engine.counts.num_running == 1)
            on.engine.gate.set()
            states = [answer.headers["x-headroom-cache"] for answer in await asyncio.gather(*asking)]
            assert "shared" in states
            assert overheads(on)[0] == 3 - states.count("shared")
