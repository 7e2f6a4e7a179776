"""Which stored checkpoints stay. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """`stored_ns` is when it came into its place, by the clock of its disk."""

    digest: str
    num_bytes: int
    stored_ns: int


def to_remove(stored: Sequence[Stored], *, keep: Collection[str], newest: int) -> tuple[str, ...]:
    """Digests of all but those of `keep` and the `newest` of the others, oldest first."""
    others = sorted((one for one in stored if one.digest not in keep), key=lambda one: (one.stored_ns, one.digest))
    return tuple(one.digest for one in others[: max(0, len(others) - newest)])
