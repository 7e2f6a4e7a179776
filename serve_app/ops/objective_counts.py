"""Outcomes counted for objectives, kept over restarts: one row for five minutes of one objective."""

from __future__ import annotations

import sqlite3

from placement.objectives import Bucket, ObjectiveName

BUCKET_S = 300.0
KEPT_S = 90 * 86_400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objective_counts (
    objective TEXT NOT NULL, start_s REAL NOT NULL, num_good INTEGER NOT NULL, num_total INTEGER NOT NULL,
    PRIMARY KEY (objective, start_s)
) WITHOUT ROWID
"""


class ObjectiveCounts:
    """Times are of the wall clock, in seconds since 1970; a window of a month outlives every process."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.execute(_SCHEMA)

    def count(self, objective: ObjectiveName, *, num_good: int, num_total: int, at_s: float) -> None:
        start_s = at_s - at_s % BUCKET_S
        self._db.execute(
            "INSERT INTO objective_counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "num_good = num_good + excluded.num_good, num_total = num_total + excluded.num_total",
            (str(objective), start_s, num_good, num_total),
        )
        self._db.execute("DELETE FROM objective_counts WHERE start_s < ?", (at_s - KEPT_S,))

    def buckets(self, objective: ObjectiveName, *, since_s: float) -> tuple[Bucket, ...]:
        rows = self._db.execute(
            "SELECT start_s, num_good, num_total FROM objective_counts WHERE objective = ? AND start_s >= ? "
            "ORDER BY start_s",
            (str(objective), since_s),
        )
        return tuple(Bucket(start_s=start_s, num_good=good, num_total=total) for start_s, good, total in rows)
