"""What survives a restart of the controller: one SQLite file, written before anything is acted on.

WAL mode with full synchronisation: a row that was reported written is there after a power cut.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from placement.estimate import Measurement
from serve_app.controller.ledger import Tenure
from serve_app.controller.lifecycle import LifecycleState
from serve_app.controller.served import Served
from serve_app.controller.words import Words
from serve_app.fleet.measurements import MEASUREMENT

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tenures (slot TEXT PRIMARY KEY, tenure BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS plans (version INTEGER PRIMARY KEY, plan BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS measurements (key TEXT PRIMARY KEY, measurement BLOB NOT NULL);
"""
_KEPT_PLANS = 100
_TENURE = TypeAdapter(Tenure)
_LIFECYCLE = TypeAdapter(LifecycleState)


class Store:
    """Owned by the controller alone; opened by nobody else for writing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds the internal secret
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self.served = Served(self._db)
        self.words = Words(self._db)

    @property
    def connection(self) -> sqlite3.Connection:
        """For tables of others of the controller; each statement commits by itself."""
        return self._db

    def internal_secret(self) -> str:
        """Made once; known to the gateway and the engines only."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('internal_secret', ?)", (secrets.token_urlsafe(32),))
        return str(self._db.execute("SELECT value FROM meta WHERE key='internal_secret'").fetchone()[0])

    def reserve_epochs(self, count: int) -> int:
        """First of `count` epochs that no controller before this one can have given out."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('next_epoch', '1')")
        row = self._db.execute(
            "UPDATE meta SET value = CAST(value AS INTEGER) + ? WHERE key='next_epoch' "
            "RETURNING CAST(value AS INTEGER)",
            (count,),
        ).fetchone()
        return int(row[0]) - count

    def save_tenure(self, tenure: Tenure) -> None:
        self._db.execute("INSERT OR REPLACE INTO tenures VALUES (?, ?)", (tenure.slot, _TENURE.dump_json(tenure)))

    def drop_tenure(self, slot: str) -> None:
        self._db.execute("DELETE FROM tenures WHERE slot = ?", (slot,))

    def drop_tenures(self) -> None:
        self._db.execute("DELETE FROM tenures")

    def tenures(self) -> Iterator[Tenure]:
        for (blob,) in self._db.execute("SELECT tenure FROM tenures").fetchall():
            yield _TENURE.validate_json(blob)

    def next_plan_version(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(version), 0) + 1 FROM plans").fetchone()[0])

    def save_plan(self, version: int, plan: bytes) -> None:
        """Only the last hundred are kept."""
        self._db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?)", (version, plan))
        self._db.execute("DELETE FROM plans WHERE version <= ?", (version - _KEPT_PLANS,))

    def drop_plans_after(self, version: int) -> None:
        self._db.execute("DELETE FROM plans WHERE version > ?", (version,))

    def last_plan(self) -> bytes | None:
        row = self._db.execute("SELECT plan FROM plans ORDER BY version DESC LIMIT 1").fetchone()
        return bytes(row[0]) if row else None

    def applied(self) -> bytes | None:
        """The settings that were applied last while the cluster ran."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'applied'").fetchone()
        return str(row[0]).encode() if row else None

    def save_applied(self, applied: bytes | None) -> None:
        self._db.execute("DELETE FROM meta WHERE key = 'applied'")
        if applied is not None:
            self._db.execute("INSERT INTO meta VALUES ('applied', ?)", (applied.decode(),))

    def lifecycle(self) -> LifecycleState:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'lifecycle'").fetchone()
        return _LIFECYCLE.validate_json(row[0]) if row else LifecycleState()

    def save_lifecycle(self, state: LifecycleState) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('lifecycle', ?)", (_LIFECYCLE.dump_json(state).decode(),))

    def deployed(self, name: str) -> str | None:
        """Digest of what this Serve application was last asked to be."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"deployed:{name}",)).fetchone()
        return str(row[0]) if row else None

    def save_deployed(self, name: str, digest: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"deployed:{name}", digest))

    def save_measurement(self, key: str, measurement: Measurement) -> None:
        self._db.execute("INSERT OR REPLACE INTO measurements VALUES (?, ?)", (key, MEASUREMENT.dump_json(measurement)))

    def measurement(self, key: str) -> Measurement | None:
        row = self._db.execute("SELECT measurement FROM measurements WHERE key = ?", (key,)).fetchone()
        return MEASUREMENT.validate_json(row[0]) if row else None

    def close(self) -> None:
        self._db.close()
