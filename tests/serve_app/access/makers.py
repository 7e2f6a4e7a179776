"""Keys for tests: a store in memory with countable randomness, and grants in one line."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from serve_app.access.keys import EVERYTHING, Grant, KeyRecord, Role
from serve_app.access.store import KeyStore

NOW_S = 1_800_000_000.0


def counting() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(6, "big") + bytes(range(size - 6))


def key_store(connection: sqlite3.Connection | None = None) -> KeyStore:
    return KeyStore(connection or sqlite3.connect(":memory:", isolation_level=None), randomness=counting())


def grant(*roles: Role, tenant: str | None = "acme", **bounds: Any) -> Grant:
    return replace(Grant(roles=frozenset(roles or {Role.INFERENCE}), tenant=tenant), **bounds)


def made(store: KeyStore, wanted: Grant = EVERYTHING, *, by: str = "", now_s: float = NOW_S) -> tuple[KeyRecord, bytes]:
    answer = store.create(wanted, note="", made_by=by, now_s=now_s)
    assert not isinstance(answer, str), answer
    record, text = answer
    return record, text.encode()


def opened() -> tuple[KeyStore, KeyRecord, bytes]:
    """A store with its first key."""
    store = key_store()
    return store, *made(store)


def bearer(key: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key)]
