"""Which checkpoints are kept and which go to the archive. Pure: what is pinned, what serves and the time come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ARCHIVE_AFTER_S: Final = 30 * 86_400.0
"""Source: row C11."""


class Why(StrEnum):
    PINNED = "pinned"
    DEPLOYED = "deployed"
    PREVIOUS = "previous"
    """It served before what serves now, so that one can go back at once."""
    PARENT = "parent"
    """What serves was trained from it, directly or not."""
    NEWEST = "newest"
    """Of its model: the next job goes on from it."""
    YOUNG = "young"
    OLD = "old"
    """The only one that goes to the archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`parent` is a weights version, None where the manifest names none; `made_at_s` in seconds since 1970."""

    model: str
    name: str
    step: int
    weights_version: str | None
    parent: str | None
    made_at_s: float


Key = tuple[str, str]
"""Model and name of a checkpoint."""


def care(
    checkpoints: Iterable[Checkpoint],
    *,
    pinned: frozenset[Key],
    deployed: frozenset[Key],
    previous: frozenset[Key] = frozenset(),
    now_s: float,
    after_s: float = ARCHIVE_AFTER_S,
) -> Mapping[Key, Why]:
    """Each with the first reason that holds."""
    known = {(one.model, one.name): one for one in checkpoints}
    parents = {key for served in deployed & known.keys() for key in _ancestors(known[served], known)}
    newest = {(one.model, one.name) for one in _newest(known.values())}
    reasons = (
        (Why.PINNED, pinned),
        (Why.DEPLOYED, deployed),
        (Why.PREVIOUS, previous),
        (Why.PARENT, parents),
        (Why.NEWEST, newest),
    )
    return {
        key: next((why for why, keys in reasons if key in keys), _by_age(one, now_s - after_s))
        for key, one in known.items()
    }


def _by_age(checkpoint: Checkpoint, border_s: float) -> Why:
    return Why.OLD if checkpoint.made_at_s < border_s else Why.YOUNG


def _ancestors(checkpoint: Checkpoint, known: Mapping[Key, Checkpoint]) -> Iterator[Key]:
    """A damaged chain may run in a circle; each is met once."""
    by_version = {one.weights_version: key for key, one in known.items() if one.model == checkpoint.model}
    met: set[Key] = set()
    key = by_version.get(checkpoint.parent) if checkpoint.parent else None
    while key is not None and key not in met:
        met.add(key)
        yield key
        parent = known[key].parent
        key = by_version.get(parent) if parent else None


def _newest(checkpoints: Iterable[Checkpoint]) -> Iterable[Checkpoint]:
    newest: dict[str, Checkpoint] = {}
    for one in checkpoints:
        before = newest.get(one.model)
        if before is None or (one.made_at_s, one.step) > (before.made_at_s, before.step):
            newest[one.model] = one
    return newest.values()
