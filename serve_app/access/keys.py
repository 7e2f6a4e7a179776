"""A key: what it may do, for whom, how much and how long. Pure: randomness and time are arguments.

A key reads `hr_<id>_<secret>`. Only its SHA-256 is kept; the id finds the record, the digest proves the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

RANDOM_BYTES: Final = 38
"""Of one key: 6 for its id, 32 for its secret."""
_ID_BYTES: Final = 6
_KEY: Final = re.compile(rb"hr_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NO_DIGEST: Final = bytes(32)
"""Compared with where there is no record, so that an unknown id takes as long as a wrong secret."""
MAX_MODELS: Final = 64


class Role(StrEnum):
    INFERENCE = "inference"
    JOBS = "jobs"
    LEASES = "leases"
    ADMIN = "admin"
    """Everything, the other roles included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a key allows. None: no bound. A grant without tenant is for all tenants: only an admin's can be."""

    roles: frozenset[Role]
    tenant: str | None
    models: frozenset[str] | None = None
    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    expires_at_s: float | None = None
    """Unix time."""

    def has(self, role: Role) -> bool:
        return role in self.roles or Role.ADMIN in self.roles

    @property
    def is_root(self) -> bool:
        """Bound by nothing. One such key must always be left, or nobody could make another."""
        return self == Grant(roles=self.roles, tenant=None) and Role.ADMIN in self.roles


EVERYTHING: Final = Grant(roles=frozenset({Role.ADMIN}), tenant=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    id: str
    digest: bytes = field(repr=False)
    grant: Grant
    note: str
    """What people call it."""
    made_by: str
    """Id of the key that made it; empty for the first."""
    created_at_s: float
    revoked_at_s: float | None = None

    def is_valid(self, *, now_s: float) -> bool:
        expires_at_s = self.grant.expires_at_s
        return self.revoked_at_s is None and (expires_at_s is None or now_s < expires_at_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySnapshot:
    """All keys that are not revoked, as every gateway holds them. A larger version is newer.

    `is_closed` is True once there has ever been a key: from then on nothing is open, whatever becomes of the keys.
    """

    version: int
    is_closed: bool
    records: tuple[KeyRecord, ...]
    _by_id: Mapping[str, KeyRecord] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {record.id: record for record in self.records})

    def named(self, key_id: str, *, now_s: float) -> KeyRecord | None:
        """The record of a valid key that somebody trusted has checked."""
        record = self._by_id.get(key_id)
        return record if record is not None and record.is_valid(now_s=now_s) else None

    def holder(self, key: bytes, *, now_s: float) -> KeyRecord | None:
        """The record of a valid key. One digest and one comparison for every key of the right form."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        record = self._by_id.get(match[1].decode())
        proven = hmac.compare_digest(digest_of(key), record.digest if record is not None else _NO_DIGEST)
        return record if record is not None and proven and record.is_valid(now_s=now_s) else None


NO_KEYS: Final = KeySnapshot(version=0, is_closed=False, records=())


def new_key(randomness: bytes) -> tuple[str, str]:
    """Id and text of a key from `RANDOM_BYTES` unguessable bytes."""
    assert len(randomness) == RANDOM_BYTES
    key_id = randomness[:_ID_BYTES].hex()
    secret = base64.urlsafe_b64encode(randomness[_ID_BYTES:]).rstrip(b"=").decode()
    return key_id, f"hr_{key_id}_{secret}"


def digest_of(key: bytes) -> bytes:
    """32 bytes. The secret has 256 bits of its own, so a slow hash would add nothing but load."""
    return hashlib.sha256(key).digest()


def wider_than(wanted: Grant, maker: Grant) -> str | None:
    """None, or a sentence about what the new key may and its maker may not."""
    roles = sorted(role.value for role in wanted.roles if not maker.has(role))
    if roles:
        return f"The maker has not the role {_listed(roles)}, so it cannot give it."
    if maker.tenant is not None and wanted.tenant != maker.tenant:
        return f"The maker is of the tenant '{maker.tenant}', so its keys must be too."
    if maker.models is not None and (wanted.models is None or not wanted.models <= maker.models):
        return f"The maker may use only the models {_listed(sorted(maker.models))}. Name some of these."
    for what in ("requests_per_min", "tokens_per_min", "expires_at_s"):
        mine, theirs = getattr(maker, what), getattr(wanted, what)
        if mine is not None and (theirs is None or theirs > mine):
            word = "end of life" if what == "expires_at_s" else what
            return f"The maker's own {word} is {mine:g}; its keys cannot have more."
    return None


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
