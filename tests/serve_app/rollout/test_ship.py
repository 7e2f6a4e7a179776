"""A checkpoint on its way to several nodes: which way it takes, and who is named when it does not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve_app.errors import CheckpointRefused
from serve_app.rollout.content_store import Received
from serve_app.rollout.depot import Depot
from serve_app.rollout.depot_server import Offer
from serve_app.rollout.ship import Shipped, Shipper, Way
from serve_app.rollout.ship_errors import ShipFailed
from serve_app.rollout.ship_parcel import Packed
from tests.serve_app.rollout.parcels import depot, made


class Near:
    """A depot of this process; `sees_all` False makes its node one that shares no disk."""

    def __init__(self, depot: Depot, *, sees_all: bool = True) -> None:
        self.depot = depot
        self.offers: list[Offer] = []
        self._sees_all = sees_all

    async def pack(self, checkpoint: Path) -> Packed:
        return await asyncio.to_thread(self.depot.pack, checkpoint)

    async def offer(self, packed: Packed) -> Offer:
        self.offers.append(await asyncio.to_thread(self.depot.offer, packed))
        return self.offers[-1]

    async def withdraw(self, offer: str) -> None:
        self.depot.withdraw(offer)

    async def sees(self, packed: Packed) -> bool:
        return self._sees_all and self.depot.sees(packed)

    async def copy(self, packed: Packed) -> Received:
        return await asyncio.to_thread(self.depot.copy, packed)

    async def fetch(self, packed: Packed, offer: Offer, *, source_node: str, within_s: float) -> Received:
        return await asyncio.to_thread(self.depot.fetch, packed, offer, source_node=source_node, within_s=within_s)


class Hung(Near):
    async def sees(self, packed: Packed) -> bool:
        await asyncio.Event().wait()
        return False


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Near]:
    near = Near(depot(tmp_path / "a", "a"))
    yield near
    near.depot.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return made(tmp_path / "a" / "models" / "tiny")


@contextmanager
def raising(kind: type[Exception], *words: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert [word for word in words if word not in str(caught.value)] == []


async def ship(nodes: dict[str, Near], checkpoint: Path, *to: str, within_s: float = 30.0) -> Shipped:
    return await Shipper(lambda: nodes).ship(checkpoint, to, source_node="a", within_s=within_s)


class TestShipping:
    async def test_a_node_that_sees_the_files_copies_and_another_streams(
        self, source: Near, checkpoint: Path, tmp_path: Path
    ) -> None:
        nodes = {"a": source, "b": Near(depot(tmp_path / "b", "b"), sees_all=False)}
        shipped = await ship(nodes, checkpoint, "a", "b")
        assert [(arrival.node, arrival.way) for arrival in shipped.arrivals] == [("a", Way.COPY), ("b", Way.STREAM)]
        assert shipped.copied_bytes == 2 * shipped.num_bytes
        for node in nodes.values():
            node.depot.verify(shipped.digest)

    async def test_an_offer_ends_with_its_shipment(self, source: Near, checkpoint: Path, tmp_path: Path) -> None:
        target = depot(tmp_path / "b", "b")
        packed = source.depot.pack(checkpoint)
        await ship({"a": source, "b": Near(target, sees_all=False)}, checkpoint, "b")
        other = depot(tmp_path / "c", "c")
        with pytest.raises(CheckpointRefused, match="no such offer"):
            other.fetch(packed, source.offers[0], source_node="a", within_s=10)

    async def test_one_bad_node_is_named_and_the_others_keep_what_they_have(
        self, source: Near, checkpoint: Path, tmp_path: Path
    ) -> None:
        full = Near(depot(tmp_path / "c", "c", keep_free_bytes=1 << 60))
        with raising(ShipFailed, "Node 'c'", "no room"):
            await ship({"a": source, "c": full}, checkpoint, "a", "c")
        assert len(source.depot.stored()) == 1

    async def test_a_node_that_does_not_answer_has_a_deadline(
        self, source: Near, checkpoint: Path, tmp_path: Path
    ) -> None:
        with raising(ShipFailed, "Node 'b'", "not done in time"):
            await ship({"a": source, "b": Hung(depot(tmp_path / "b", "b"))}, checkpoint, "b", within_s=0.2)

    async def test_a_node_nobody_knows_is_named(self, source: Near, checkpoint: Path) -> None:
        with raising(ShipFailed, "Node 'z'", "no depot"):
            await ship({"a": source}, checkpoint, "a", "z")

    async def test_a_checkpoint_at_fault_outweighs_a_node_at_fault(self, source: Near, checkpoint: Path) -> None:
        weights = checkpoint / "model.safetensors"
        spoilt = bytearray(weights.read_bytes())
        spoilt[-1] ^= 1
        weights.write_bytes(spoilt)
        with raising(CheckpointRefused, "Node 'a'", "Node 'z'"):
            await ship({"a": source}, checkpoint, "z", "a")
