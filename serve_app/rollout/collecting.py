"""Which of a node's stored checkpoints go once a rollout is over."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from serve_app.rollout.content_store_care import Stored
from serve_app.training.manifest import WEIGHTS_VERSION_DIGITS

KEPT_BESIDE: Final = 1
"""Stored checkpoints that nobody needs, the newest: a rollout that was refused may be tried again."""


class Keeper(Protocol):
    async def stored(self) -> tuple[Stored, ...]: ...
    async def collect(self, keep: Collection[str], newest: int) -> tuple[str, ...]: ...


async def collect(depot: Keeper, versions: Collection[str]) -> frozenset[str]:
    """Weights versions that are gone now: all but `versions` and the newest few others.

    Raises: ShipFailed when the depot does not answer.
    """
    stored = await depot.stored()
    keep = [one.digest for one in stored if _version(one.digest) in versions]
    return frozenset(map(_version, await depot.collect(keep, KEPT_BESIDE)))


def _version(digest: str) -> str:
    return digest[:WEIGHTS_VERSION_DIGITS]
