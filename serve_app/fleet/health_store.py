"""What must survive a restart of the fleet's health: quarantine, strikes, cordons, alerts that have fired."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from placement.codec import from_json_value, to_json_value
from placement.health_state import FleetHealth, Standing

_SCHEMA = "CREATE TABLE IF NOT EXISTS standings (device TEXT PRIMARY KEY, standing TEXT NOT NULL) WITHOUT ROWID"


class HealthStore:
    """Its own table of a connection that commits each statement by itself (`isolation_level=None`)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        assert connection.isolation_level is None
        self._db = connection
        self._db.execute(_SCHEMA)

    def save(self, fleet: FleetHealth, changed: Iterable[str]) -> None:
        """All of them or none; `changed` is that of an `Outcome`, stored before its effects are carried out."""
        rows = [(device, json.dumps(to_json_value(fleet.records[device].standing))) for device in changed]
        if not rows:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO standings VALUES (?, ?)", rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def forget(self, device: str) -> None:
        self._db.execute("DELETE FROM standings WHERE device = ?", (device,))

    def standings(self) -> tuple[Standing, ...]:
        """For `health.restored`. Raises: DecodeError for a row that is not ours; a lost quarantine is no default."""
        rows = self._db.execute("SELECT device, standing FROM standings ORDER BY device").fetchall()
        return tuple(from_json_value(Standing, json.loads(text), path=f"standings[{device}]") for device, text in rows)
