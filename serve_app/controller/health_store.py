"""What of the fleet's health survives a restart: the standing of each device, alerts, counted outcomes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from placement.codec import from_json_value, to_json_value
from placement.errors import DecodeError
from placement.health_state import Standing
from serve_app.fleet.alerts import AlertHistory
from serve_app.logs import logger
from serve_app.ops.objective_counts import ObjectiveCounts

_SCHEMA = "CREATE TABLE IF NOT EXISTS standings (device TEXT PRIMARY KEY, standing TEXT NOT NULL)"


class HealthStore:
    """Tables of the controller's own store, on its connection."""

    def __init__(self, connection: sqlite3.Connection, *, max_alerts: int) -> None:
        self._db = connection
        self._db.execute(_SCHEMA)
        self.alerts = AlertHistory(connection, max_kept=max_alerts)
        self.objectives = ObjectiveCounts(connection)

    def save_standings(self, standings: Iterable[Standing]) -> None:
        rows = [(one.device, json.dumps(to_json_value(one))) for one in standings]
        self._db.executemany("INSERT OR REPLACE INTO standings VALUES (?, ?)", rows)

    def standings(self) -> tuple[Standing, ...]:
        """One written by another version of the product, and not readable any more, is left out and said."""
        found = []
        for device, text in self._db.execute("SELECT device, standing FROM standings").fetchall():
            try:
                found.append(from_json_value(Standing, json.loads(text)))
            except DecodeError as error:
                _log.error("the stored health of a device cannot be read", device=device, error=str(error))
        return tuple(found)


_log = logger("headroom.health")
