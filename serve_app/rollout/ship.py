"""Takes a checkpoint to every node that needs it, and says which node did not get it and why.

Chooses the way by asking: a node that sees the very files copies them, any other fetches them from their node. Knows
depots by a protocol only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from serve_app.errors import CheckpointRefused, HeadroomError
from serve_app.logs import logger
from serve_app.rollout.content_store import Received
from serve_app.rollout.depot_server import Offer
from serve_app.rollout.ship_errors import ShipFailed, broke_off
from serve_app.rollout.ship_parcel import Packed

SHIP_S: Final = 600.0
"""Deadline of one shipment to all its nodes."""
TOGETHER: Final = 4
"""Nodes that are shipped to at once; more would only share the source's disk and network."""
log = logger("ship")


class Way(StrEnum):
    COPY = "copy"
    STREAM = "stream"


class DepotLink(Protocol):
    """One node's depot, wherever it runs. Raises: CheckpointRefused, ShipFailed, and what its transport raises."""

    async def pack(self, checkpoint: Path) -> Packed: ...
    async def offer(self, packed: Packed) -> Offer: ...
    async def withdraw(self, offer: str) -> None: ...
    async def sees(self, packed: Packed) -> bool: ...
    async def copy(self, packed: Packed) -> Received: ...
    async def fetch(self, packed: Packed, offer: Offer, *, source_node: str, within_s: float) -> Received: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One node that has the checkpoint, verified, at `path`."""

    node: str
    path: Path
    way: Way
    copied_bytes: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """`num_bytes` is the size of the checkpoint; what was really moved is in `arrivals`."""

    digest: str
    num_bytes: int
    duration_s: float
    arrivals: tuple[Arrival, ...]

    @property
    def copied_bytes(self) -> int:
        return sum(arrival.copied_bytes for arrival in self.arrivals)


class Shipper:
    """`depots` by node name, asked at each shipment, because nodes come and go."""

    def __init__(
        self, depots: Callable[[], Mapping[str, DepotLink]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._depots = depots
        self._clock = clock

    async def ship(
        self, checkpoint: Path, nodes: Sequence[str], *, source_node: str, within_s: float = SHIP_S
    ) -> Shipped:
        """All nodes or an error; those that have it keep it, so that the next try is short.

        Raises: CheckpointRefused if the checkpoint is at fault, ShipFailed if a node is; both name the nodes.
        """
        began_s = self._clock()
        depots, deadline_s = self._depots(), began_s + within_s
        async with _at(source_node, deadline_s - self._clock()):
            packed = await _depot(depots, source_node).pack(checkpoint)
        gate = asyncio.Semaphore(TOGETHER)

        async def one(node: str) -> Arrival:
            async with gate:
                return await self._to(node, packed, depots, source_node, deadline_s)

        done = await asyncio.gather(*(one(node) for node in dict.fromkeys(nodes)), return_exceptions=True)
        arrivals = tuple(arrival for arrival in done if isinstance(arrival, Arrival))
        _raise_worst([fault for fault in done if isinstance(fault, BaseException)])
        return Shipped(
            digest=packed.parcel.digest,
            num_bytes=packed.parcel.num_bytes,
            duration_s=self._clock() - began_s,
            arrivals=arrivals,
        )

    async def _to(
        self, node: str, packed: Packed, depots: Mapping[str, DepotLink], source_node: str, deadline_s: float
    ) -> Arrival:
        began_s = self._clock()
        async with _at(node, deadline_s - self._clock()):
            depot = _depot(depots, node)
            if await depot.sees(packed):
                way, received = Way.COPY, await depot.copy(packed)
            else:
                way = Way.STREAM
                received = await self._streamed(depot, packed, depots, source_node, deadline_s)
        duration_s = self._clock() - began_s
        log.info("checkpoint arrived", node=node, digest=packed.parcel.weights_version, way=way.value, s=duration_s)
        return Arrival(
            node=node, path=received.path, way=way, copied_bytes=received.copied_bytes, duration_s=duration_s
        )

    async def _streamed(
        self, depot: DepotLink, packed: Packed, depots: Mapping[str, DepotLink], source_node: str, deadline_s: float
    ) -> Received:
        source = _depot(depots, source_node)
        async with _at(source_node, deadline_s - self._clock()):
            offer = await source.offer(packed)
        try:
            within_s = max(0.0, deadline_s - self._clock())
            return await depot.fetch(packed, offer, source_node=source_node, within_s=within_s)
        finally:
            await _withdraw(source, offer)


async def _withdraw(source: DepotLink, offer: Offer) -> None:
    """A source that is gone gives nothing any more, and its number of offers is bounded."""
    try:
        await source.withdraw(offer.offer)
    except ShipFailed as error:
        log.warning("an offer could not be withdrawn", error=error.what)


@asynccontextmanager
async def _at(node: str, within_s: float) -> AsyncIterator[None]:
    """Names the node in whatever goes wrong with it, and ends it at the deadline."""
    try:
        async with asyncio.timeout(max(0.0, within_s)):
            yield
    except TimeoutError as error:
        raise broke_off(f"Node {node!r} was not done in time", error) from error
    except CheckpointRefused as error:
        raise CheckpointRefused(f"Node {node!r}: {error.what}", expected=error.expected, advice=error.advice) from error
    except ShipFailed as error:
        raise ShipFailed(f"Node {node!r}: {error.what}", expected=error.expected, advice=error.advice) from error


def _depot(depots: Mapping[str, DepotLink], node: str) -> DepotLink:
    if node not in depots:
        raise ShipFailed(
            "It has no depot.",
            expected=f"Expected one of: {', '.join(sorted(depots)) or 'none is there'}.",
            advice="See `headroom gpus` for the nodes of the cluster.",
        )
    return depots[node]


def _raise_worst(faults: Sequence[BaseException]) -> None:
    """A bug before a checkpoint at fault, and that before a node at fault, which may work later."""
    for fault in faults:
        if not isinstance(fault, HeadroomError):
            raise fault
    told = sorted(faults, key=lambda fault: not isinstance(fault, CheckpointRefused))
    if told:
        raise told[0] if len(told) == 1 else type(told[0])(" ".join(map(str, told)))
