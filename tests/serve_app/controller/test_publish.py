"""The publisher: a table changes its version when it changes, and who waits is told at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from serve_app.controller.publish import Publisher
from serve_app.gateway.routing_table import Backend, Peer

BACKEND = Backend(
    replica="m#0:1",
    model="m",
    deployment="m@head",
    url="http://127.0.0.1:1",
    weights_version="abc",
    checkpoint_step=1,
    device="head/host",
    max_num_seqs=1,
    max_model_len=16,
)
PEER = Peer(replica="g1", url="http://127.0.0.1:2")


def publisher(first_version: int = 1) -> Publisher:
    return Publisher(secret="s", first_version=first_version)


class TestVersions:
    async def test_the_same_backends_again_are_no_change(self) -> None:
        of = publisher()
        of.show([BACKEND], {})
        version = of.table().version
        of.show([BACKEND], {})
        assert of.table().version == version

    async def test_another_refusal_is_a_change(self) -> None:
        of = publisher()
        of.show([BACKEND], {})
        version = of.table().version
        of.show([BACKEND], {"base": "No room."})
        assert of.table().version > version
        assert of.table().refusals == (("base", "No room."),)

    async def test_a_waiter_is_told_of_a_change_at_once(self) -> None:
        of = publisher()
        waiting = asyncio.create_task(of.newer(of.table().version, timeout_s=60))
        await asyncio.sleep(0)
        of.show([BACKEND], {})
        table = await asyncio.wait_for(waiting, timeout=5)
        assert table is not None
        assert table.backends == (BACKEND,)

    async def test_without_a_change_the_answer_is_none_in_time(self) -> None:
        of = publisher()
        assert await of.newer(of.table().version, timeout_s=0.01) is None

    async def test_the_version_of_an_earlier_controller_is_answered_at_once(self) -> None:
        earlier, later = publisher(1), publisher(1_000_001)
        assert await later.newer(earlier.table().version, timeout_s=60) is not None


class TestPeers:
    async def test_a_gateway_that_registers_again_is_no_change(self) -> None:
        of = publisher()
        of.add_peer(PEER, now_s=0)
        version = of.table().version
        of.add_peer(PEER, now_s=5)
        assert of.table().version == version

    async def test_a_moved_gateway_is_a_change(self) -> None:
        of = publisher()
        of.add_peer(PEER, now_s=0)
        of.add_peer(replace(PEER, url="http://127.0.0.1:3"), now_s=1)
        assert [peer.url for peer in of.table().peers] == ["http://127.0.0.1:3"]

    async def test_a_silent_gateway_is_forgotten(self) -> None:
        of = publisher()
        of.add_peer(PEER, now_s=0)
        assert not of.drop_silent_peers(now_s=15)
        assert of.drop_silent_peers(now_s=15.1)
        assert of.table().peers == ()
        assert of.gateway_urls() == ()

    async def test_gateways_that_live_can_be_asked_by_us_too(self) -> None:
        of = publisher()
        of.add_peer(PEER, now_s=0)
        assert of.gateway_urls() == (PEER.url,)
