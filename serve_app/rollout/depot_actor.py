"""A `Depot` as a Ray actor: one per node. The only file of shipping that knows Ray."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from pathlib import Path
from typing import Any, Final

import ray
import ray.exceptions

from serve_app.errors import HeadroomError
from serve_app.rollout.content_store import Received
from serve_app.rollout.content_store_care import Stored
from serve_app.rollout.depot import Depot, DepotSettings
from serve_app.rollout.depot_server import Offer
from serve_app.rollout.ship_errors import broke_off
from serve_app.rollout.ship_parcel import Packed
from serve_app.training.checkpoints import Verified

DEPOT_THREADS: Final = 4


DEPOT_ACTOR: Final[Any] = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=DEPOT_THREADS)(Depot)
"""Start it pinned to its node; a restarted one goes on with what is on its disk."""


class ActorDepot:
    """`ship.DepotLink` over an actor handle, and what the keeper of a node can be asked."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def pack(self, checkpoint: Path) -> Packed:
        answer: Packed = await _answer(self._handle.pack.remote(checkpoint))
        return answer

    async def offer(self, packed: Packed) -> Offer:
        answer: Offer = await _answer(self._handle.offer.remote(packed))
        return answer

    async def withdraw(self, offer: str) -> None:
        await _answer(self._handle.withdraw.remote(offer))

    async def sees(self, packed: Packed) -> bool:
        answer: bool = await _answer(self._handle.sees.remote(packed))
        return answer

    async def copy(self, packed: Packed) -> Received:
        answer: Received = await _answer(self._handle.copy.remote(packed))
        return answer

    async def fetch(self, packed: Packed, offer: Offer, *, source_node: str, within_s: float) -> Received:
        answer: Received = await _answer(
            self._handle.fetch.remote(packed, offer, source_node=source_node, within_s=within_s)
        )
        return answer

    async def stored(self) -> tuple[Stored, ...]:
        answer: tuple[Stored, ...] = await _answer(self._handle.stored.remote())
        return answer

    async def verify(self, digest: str) -> Verified:
        answer: Verified = await _answer(self._handle.verify.remote(digest))
        return answer

    async def collect(self, keep: Collection[str], newest: int) -> tuple[str, ...]:
        answer: tuple[str, ...] = await _answer(self._handle.collect.remote(tuple(keep), newest))
        return answer


async def _answer(asked: Awaitable[Any]) -> Any:
    """Raises: what the depot raised; ShipFailed when it is gone."""
    try:
        return await asked
    except HeadroomError:  # Ray's own error is one of ours too when ours is what the actor raised
        raise
    except ray.exceptions.RayError as error:
        raise broke_off("Its depot does not answer", error) from error


def start_depot(settings: DepotSettings, **options: Any) -> ActorDepot:
    """`options` are Ray's: name, namespace, lifetime and the label selector of the node."""
    return ActorDepot(DEPOT_ACTOR.options(**options).remote(settings))
