"""The records of rollouts in the store: each stage before its effect, one under way at a time, the last ones kept."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Final

from pydantic import TypeAdapter

from serve_app.rollout.record import Record, Stage

KEPT: Final = 100
"""Row C5."""
KEPT_TURNED_AWAY: Final = 1000
MAX_PAGE: Final = 100
_RECORD: Final = TypeAdapter(Record)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rollouts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, stage TEXT NOT NULL, is_over INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS rollouts_one ON rollouts (is_over) WHERE NOT is_over;
CREATE TABLE IF NOT EXISTS rollouts_turned_away (
    id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, version TEXT NOT NULL, UNIQUE (model, version)
);
"""


class RolloutLedger:
    """Its own tables of a connection that commits each statement by itself (`isolation_level=None`)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        assert connection.isolation_level is None
        self._db = connection
        self._db.executescript(_SCHEMA)

    def add(self, record: Record) -> Record | None:
        """With the id it has from now on; None when another is under way, in this cluster, of any model."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            row = self._db.execute(
                "INSERT INTO rollouts (model, stage, is_over, record) VALUES (?, ?, 0, '') RETURNING id",
                (record.model, record.stage),
            ).fetchone()
            named = replace(record, id=int(row[0]))
            self._write(named)
        except sqlite3.IntegrityError:
            self._db.execute("ROLLBACK")
            return None
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return named

    def save(self, record: Record) -> None:
        """All of the record in one write, and whether its weights were turned away. Raises: sqlite3.Error."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write(record)
            if record.stage in (Stage.RETURNED, Stage.REFUSED):
                self._turn_away(record.model, record.new.version)
            if record.is_over:
                self._db.execute("DELETE FROM rollouts WHERE is_over AND id <= ?", (record.id - KEPT,))
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def current(self) -> Record | None:
        """The one under way."""
        row = self._db.execute("SELECT record FROM rollouts WHERE NOT is_over").fetchone()
        return None if row is None else _RECORD.validate_json(row[0])

    def get(self, rollout_id: int) -> Record | None:
        row = self._db.execute("SELECT record FROM rollouts WHERE id = ?", (rollout_id,)).fetchone()
        return None if row is None else _RECORD.validate_json(row[0])

    def page(
        self,
        *,
        limit: int = MAX_PAGE,
        before: int | None = None,
        model: str | None = None,
        status: Stage | None = None,
    ) -> tuple[Record, ...]:
        """Newest first. `before` is the last id of the page before; None for a filter takes all."""
        wanted = {"id < ?": before, "model = ?": model, "stage = ?": status}
        terms = [term for term, value in wanted.items() if value is not None]
        values = [value for value in wanted.values() if value is not None]
        where = f"WHERE {' AND '.join(terms)}" if terms else ""
        query = f"SELECT record FROM rollouts {where} ORDER BY id DESC LIMIT ?"  # noqa: S608  # all of it ours
        rows = self._db.execute(query, (*values, max(1, min(limit, MAX_PAGE)))).fetchall()
        return tuple(_RECORD.validate_json(row[0]) for row in rows)

    def was_turned_away(self, model: str, version: str) -> bool:
        """Whether a rollout of these weights was refused or rolled back; remembered longer than its record."""
        query = "SELECT 1 FROM rollouts_turned_away WHERE model = ? AND version = ?"
        return self._db.execute(query, (model, version)).fetchone() is not None

    def _write(self, record: Record) -> None:
        done = self._db.execute(
            "UPDATE rollouts SET stage = ?, is_over = ?, record = ? WHERE id = ?",
            (record.stage, record.is_over, _RECORD.dump_json(record), record.id),
        )
        assert done.rowcount == 1

    def _turn_away(self, model: str, version: str) -> None:
        self._db.execute("DELETE FROM rollouts_turned_away WHERE model = ? AND version = ?", (model, version))
        row = self._db.execute(
            "INSERT INTO rollouts_turned_away (model, version) VALUES (?, ?) RETURNING id", (model, version)
        ).fetchone()
        self._db.execute("DELETE FROM rollouts_turned_away WHERE id <= ?", (int(row[0]) - KEPT_TURNED_AWAY,))
