"""The keys in SQLite: written before they count, each change a new version of the snapshot that gateways hold."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from serve_app.access.keys import (
    EVERYTHING,
    RANDOM_BYTES,
    Grant,
    KeyRecord,
    KeySnapshot,
    digest_of,
    new_key,
    wider_than,
)

MAX_KEYS: Final = 10_000
"""Kept, revoked ones among them; a snapshot of so many is about 5 MB."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS access_keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL, allowed BLOB NOT NULL, note TEXT NOT NULL, made_by TEXT NOT NULL,
    created_at_s REAL NOT NULL, revoked_at_s REAL
);
CREATE TABLE IF NOT EXISTS access_version (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL);
INSERT OR IGNORE INTO access_version VALUES (1, 0);
CREATE TRIGGER IF NOT EXISTS access_made AFTER INSERT ON access_keys
    BEGIN UPDATE access_version SET version = version + 1; END;
CREATE TRIGGER IF NOT EXISTS access_changed AFTER UPDATE ON access_keys
    BEGIN UPDATE access_version SET version = version + 1; END;
CREATE TRIGGER IF NOT EXISTS access_dropped AFTER DELETE ON access_keys
    BEGIN UPDATE access_version SET version = version + 1; END;
"""
"""Triggers, so that a change and its version are one statement and commit together."""
_GRANT: Final = TypeAdapter(Grant)


def has_keys(path: Path) -> bool:
    """Whether the store in this file has ever had a key; False where there is no such file. Writes nothing."""
    if not path.exists():
        return False
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        try:
            return bool(db.execute("SELECT version FROM access_version").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return False
            raise


class KeyStore:
    """Owned by the controller. `randomness` gives so many unguessable bytes, as `secrets.token_bytes` does."""

    def __init__(self, connection: sqlite3.Connection, *, randomness: Callable[[int], bytes]) -> None:
        """`connection` commits each statement by itself (`isolation_level=None`)."""
        assert connection.isolation_level is None
        self._db = connection
        self._randomness = randomness
        self._db.executescript(_SCHEMA)
        self._snapshot = self._read()

    def snapshot(self) -> KeySnapshot:
        """What gateways hold. As cheap as an attribute, so it may go with every routing table."""
        return self._snapshot

    def create(self, grant: Grant, *, note: str, made_by: str, now_s: float) -> tuple[KeyRecord, str] | str:
        """A key and its text, which is told once; or the sentence that refuses it.

        `made_by` is the id of the maker's key, empty while there are no keys.
        """
        refusal = self._refusal(grant, made_by, now_s)
        if refusal is not None:
            return refusal
        key_id, text = new_key(self._randomness(RANDOM_BYTES))
        record = KeyRecord(
            id=key_id, digest=digest_of(text.encode()), grant=grant, note=note, made_by=made_by, created_at_s=now_s
        )
        self._db.execute(
            "INSERT INTO access_keys VALUES (?, ?, ?, ?, ?, ?, NULL)",
            (record.id, record.digest, _GRANT.dump_json(grant), note, made_by, now_s),
        )
        self._snapshot = self._read()
        return record, text

    def revoke(self, key_id: str, *, by: str, now_s: float) -> KeyRecord | str | None:
        """The revoked record, None where there is no such key, or the sentence that refuses.

        A key revoked before is left as it is. Keys that it made live on: they are listed with their maker.
        """
        record = self.record(key_id)
        if record is None or record.revoked_at_s is not None:
            return record
        maker = self._maker(by, now_s)
        wider = "That key is not valid any more." if maker is None else wider_than(record.grant, maker)
        if wider is not None:
            return f"The key '{key_id}' may do more than the key that would revoke it. {wider}"
        if record.grant.is_root and not any(one.grant.is_root and one.id != key_id for one in self._snapshot.records):
            return f"The key '{key_id}' is the last that is bound by nothing. Make another such admin key first."
        self._db.execute("UPDATE access_keys SET revoked_at_s = ? WHERE id = ?", (now_s, key_id))
        self._snapshot = self._read()
        return self.record(key_id)

    def record(self, key_id: str) -> KeyRecord | None:
        row = self._db.execute("SELECT * FROM access_keys WHERE id = ?", (key_id,)).fetchone()
        return None if row is None else _record(row)

    def page(self, *, limit: int, after: str, tenant: str | None = None) -> list[KeyRecord]:
        """By id, revoked and expired ones too. `after` is the last id of the page before, empty at first."""
        rows = self._db.execute("SELECT * FROM access_keys WHERE id > ? ORDER BY id", (after,))
        found = (_record(row) for row in rows)
        chosen = (record for record in found if tenant is None or record.grant.tenant == tenant)
        return [record for record, _ in zip(chosen, range(limit), strict=False)]

    def _refusal(self, grant: Grant, made_by: str, now_s: float) -> str | None:
        if not self._snapshot.is_closed and not grant.is_root:
            return "The first key must be an admin's that is bound by nothing: no tenant, models, rate or end."
        if grant.tenant is None and not grant.is_root:
            return "A key needs a tenant. Only an admin's key that is bound by nothing is for all tenants."
        maker = self._maker(made_by, now_s)
        if maker is None:
            return f"The key '{made_by[:16]}' that would make it is not valid any more."
        (num_keys,) = self._db.execute("SELECT COUNT(*) FROM access_keys").fetchone()
        if num_keys >= MAX_KEYS and not self._drop_one_revoked():
            return f"There are {MAX_KEYS} keys, which is the most. Revoke one that nobody uses."
        return wider_than(grant, maker)

    def _maker(self, key_id: str, now_s: float) -> Grant | None:
        """None: no longer valid. Looked up anew, because a request may outlive its key."""
        if not self._snapshot.is_closed:
            return EVERYTHING
        record = self.record(key_id)
        return record.grant if record is not None and record.is_valid(now_s=now_s) else None

    def _drop_one_revoked(self) -> bool:
        oldest = "SELECT id FROM access_keys WHERE revoked_at_s IS NOT NULL ORDER BY revoked_at_s LIMIT 1"
        return self._db.execute(f"DELETE FROM access_keys WHERE id IN ({oldest})").rowcount > 0  # noqa: S608  # constant

    def _read(self) -> KeySnapshot:
        (version,) = self._db.execute("SELECT version FROM access_version").fetchone()
        rows = self._db.execute("SELECT * FROM access_keys WHERE revoked_at_s IS NULL").fetchall()
        return KeySnapshot(version=version, is_closed=version > 0, records=tuple(_record(row) for row in rows))


def _record(row: tuple[str, bytes, bytes, str, str, float, float | None]) -> KeyRecord:
    key_id, digest, allowed, note, made_by, created_at_s, revoked_at_s = row
    return KeyRecord(
        id=key_id,
        digest=bytes(digest),
        grant=_GRANT.validate_json(allowed),
        note=note,
        made_by=made_by,
        created_at_s=created_at_s,
        revoked_at_s=revoked_at_s,
    )
