"""A throttled device takes fewer requests at a time, and those beyond are told at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from serve_app.gateway.catalog import make_catalog
from serve_app.gateway.loads import Loads
from serve_app.gateway.routing_table import Backend, Peer, RoutingTable
from tests.serve_app.gateway.builders import backend, chat, settings, table
from tests.serve_app.gateway.serving import stage, until

FREE, THROTTLED = backend("mini", number=0), replace(backend("mini", number=1), max_in_flight=1)


class TestOrder:
    def test_a_backend_with_all_it_may_take_is_left_out(self) -> None:
        loads = Loads(lambda: 0.0)
        loads.begin(THROTTLED.replica)
        assert loads.order((THROTTLED, FREE)) == (FREE,)
        assert loads.takes_none((THROTTLED,))
        assert not loads.takes_none((THROTTLED, FREE))

    def test_it_is_back_when_one_is_answered(self) -> None:
        loads = Loads(lambda: 0.0)
        loads.begin(THROTTLED.replica)
        loads.end(THROTTLED.replica)
        assert loads.order((THROTTLED,)) == (THROTTLED,)


class TestSeveralGateways:
    def test_share_what_the_device_may_take(self) -> None:
        peers = tuple(Peer(replica=f"g{number}", url="http://127.0.0.1:9") for number in range(3))
        shown = replace(table(replace(FREE, max_in_flight=4)), peers=peers)
        (seen,) = _serving(shown)
        assert seen.max_in_flight == 2

    def test_one_alone_has_all_of_it(self) -> None:
        (seen,) = _serving(table(replace(FREE, max_in_flight=4)))
        assert seen.max_in_flight == 4


class TestRequests:
    async def test_beyond_the_limit_are_503_with_retry_after_and_the_rest_is_served(self) -> None:
        async with stage("mini", token_s=0.02, num_words=64) as on:
            limited = replace(backend("mini", url=on.urls["mini"]), max_in_flight=1)
            on.gateway.update(table(limited, version=2))
            first = asyncio.create_task(on.chat(chat("mini", "one")))
            await until(lambda: on.engine.counts.num_running > 0)
            second = await on.chat(chat("mini", "two"))
            assert (second.status_code, second.json()["error"]["code"]) == (503, "device_throttled")
            assert second.headers["retry-after"] == "1"
            assert (await first).status_code == 200


def _serving(shown: RoutingTable) -> tuple[Backend, ...]:
    return make_catalog(settings(), shown).serving["mini"]
