"""Room before a model: how many go in, how many wait, whose turn is next."""

from __future__ import annotations

import asyncio
import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.bulkheads import MAX_RETRY_S, Bulkheads, Ticket
from tests.serve_app.gateway.builders import chat, settings
from tests.serve_app.gateway.serving import stage, until


class Party:
    """One room of a bulkhead and who went in, in order."""

    def __init__(self, *, limit: int, max_queued: int) -> None:
        self.bulkheads = Bulkheads(max_queued=max_queued)
        self.limit = limit
        self.went_in: list[str] = []

    def come(self, tenant: str = "t") -> Ticket | None:
        if not self.bulkheads.has_room("m", tenant):
            return None
        ticket = Ticket("m", tenant, lambda: self.went_in.append(tenant))
        self.bulkheads.enter("m", limit=self.limit, ticket=ticket)
        return ticket


class TestARoom:
    @given(
        limit=st.integers(1, 3),
        max_queued=st.integers(0, 4),
        events=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(-20, 60)), max_size=120),
    )
    def test_keeps_its_bounds_loses_nobody_and_never_idles(
        self, limit: int, max_queued: int, events: list[tuple[str, int]]
    ) -> None:
        party, here = Party(limit=limit, max_queued=max_queued), list[Ticket]()
        for number, (tenant, leaves) in enumerate(events):
            if leaves < 0 and here:
                party.bulkheads.leave(here.pop(leaves % len(here)), float(number))
            elif (ticket := party.come(tenant)) is not None:
                here.append(ticket)
            num_in, num_queued = party.bulkheads.num_in("m"), party.bulkheads.num_queued("m")
            assert num_in <= limit
            assert num_queued <= max_queued
            assert num_in + num_queued == len(here)
            assert num_in == sum(ticket.is_in for ticket in here)
            assert num_queued == 0 or num_in == limit

    def test_lets_tenants_take_turns_though_one_came_with_many(self) -> None:
        party = Party(limit=1, max_queued=9)
        for ticket in [party.come(tenant) for tenant in ("loud", "loud", "loud", "loud", "quiet")]:
            assert ticket is not None
            party.bulkheads.leave(ticket, 0.0)
        assert party.went_in.index("quiet") <= 2

    def test_refuses_a_tenant_its_part_only_while_others_wait(self) -> None:
        party = Party(limit=1, max_queued=4)
        tickets = [party.come("loud") for _ in range(3)]
        assert all(tickets)
        assert party.come("quiet")
        assert party.come("loud") is None
        assert party.bulkheads.has_room("m", "quiet")

    def test_gives_a_place_back_once_only(self) -> None:
        party = Party(limit=1, max_queued=4)
        ticket = party.come()
        assert ticket is not None
        party.bulkheads.leave(ticket, 0.0)
        party.bulkheads.leave(ticket, 0.0)
        assert party.bulkheads.num_in("m") == 0

    def test_says_when_to_come_back_by_its_pace(self) -> None:
        party = Party(limit=1, max_queued=99)
        tickets = [party.come() for _ in range(20)]
        for second, ticket in enumerate(tickets[:10]):
            assert ticket is not None
            party.bulkheads.leave(ticket, 2.0 * second)
        assert party.bulkheads.retry_after_s("m") == 2 * (9 + 1)
        assert Party(limit=1, max_queued=9).bulkheads.retry_after_s("m") == 1
        assert party.bulkheads.wait_s("m") <= MAX_RETRY_S


class TestTheAddress:
    async def test_queues_what_the_model_cannot_take_and_refuses_the_rest_with_503(self) -> None:
        of = settings()
        of = dataclasses.replace(of, gateway=dataclasses.replace(of.gateway, max_queued=2))
        async with stage("mini", of=of) as on:
            on.engine.gate = asyncio.Event()
            asked = [asyncio.create_task(on.chat(chat("mini", text=str(number)))) for number in range(10)]
            await until(lambda: on.gateway._loads.num_in_flight == 8)
            await until(lambda: on.engine.counts.num_running == 8)
            refused = await on.chat(chat("mini", text="late"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["code"] == "overloaded"
            on.engine.gate.set()
            assert {(await one).status_code for one in asked} == {200}
            assert on.counted("headroom_shed_total", "none") == 1

    async def test_lets_no_one_wait_longer_than_the_limit(self) -> None:
        of = settings()
        of = dataclasses.replace(of, gateway=dataclasses.replace(of.gateway, queue_timeout_s=0.05))
        async with stage("mini", of=of) as on:
            on.engine.gate = asyncio.Event()
            asked = [asyncio.create_task(on.chat(chat("mini", text=str(number)))) for number in range(9)]
            done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            (late,) = [one.result() for one in done]
            assert (late.status_code, late.json()["error"]["code"]) == (503, "overloaded")
            on.engine.gate.set()
            assert {(await one).status_code for one in waiting} == {200}

    async def test_frees_the_place_of_a_client_that_leaves_the_queue(self) -> None:
        async with stage("mini") as on:
            on.engine.gate = asyncio.Event()
            asked = [asyncio.create_task(on.chat(chat("mini", text=str(number)))) for number in range(9)]
            bulkheads = on.gateway._inference._engines.bulkheads
            await until(lambda: bulkheads.num_queued("mini@v1") == 1)
            for one in asked:
                one.cancel()
            await until(lambda: bulkheads.num_queued("mini@v1") == bulkheads.num_in("mini@v1") == 0)
            assert on.engine.counts.num_started == 8
