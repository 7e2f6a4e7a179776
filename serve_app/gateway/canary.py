"""Which requests meet new weights first. Pure."""

from __future__ import annotations

from hashlib import blake2b


def falls_into(key: bytes, *, share: float, seed: str) -> bool:
    """True for `share` of all keys, for a key always alike; whoever falls into a share falls into a larger one."""
    place = int.from_bytes(blake2b(seed.encode() + b"\0" + key, digest_size=8).digest())
    return place < share * 2**64
