"""What is known of checkpoints: one row per directory, one score per weights and test set. Files are made from it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import astuple
from typing import Any, Final

from placement.codec import from_json_value, to_json_value
from serve_app.compare.finder import Record, State
from serve_app.compare.score import CheckpointScore

MAX_GONE: Final = 1000
"""Rows kept of directories that are no longer there."""
MAX_SCORES: Final = 10_000
"""Scores kept, the newest; rows of directories that are there never lose theirs."""
_COLUMNS: Final = "model, path, stamp, state, step, weights_version, test_set, reason, num_attempts, at_s"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS checkpoints (
    model TEXT NOT NULL, path TEXT PRIMARY KEY, stamp TEXT NOT NULL, state TEXT NOT NULL, step INTEGER,
    weights_version TEXT, test_set TEXT NOT NULL, reason TEXT NOT NULL, num_attempts INTEGER NOT NULL,
    at_s REAL NOT NULL, gone INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS checkpoint_scores (
    model TEXT NOT NULL, weights_version TEXT NOT NULL, test_set TEXT NOT NULL, score TEXT NOT NULL, at_s REAL NOT NULL,
    PRIMARY KEY (model, weights_version, test_set)
);
"""


class ComparisonStore:
    """Its own tables of a connection that commits each statement by itself (`isolation_level=None`)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        assert connection.isolation_level is None
        self._db = connection
        self._db.executescript(_SCHEMA)

    def records(self, *, gone: bool = False) -> dict[str, Record]:
        """By path; `gone` takes those that are no longer there instead."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM checkpoints WHERE gone = ?", (gone,))  # noqa: S608  # ours
        return {record.path: record for record in map(_record, rows.fetchall())}

    def save(self, record: Record) -> None:
        marks = ", ".join("?" * len(_COLUMNS.split(",")))
        row = astuple(record)
        self._db.execute(f"INSERT OR REPLACE INTO checkpoints ({_COLUMNS}) VALUES ({marks})", row)  # noqa: S608  # ours

    def save_score(self, score: CheckpointScore, *, at_s: float) -> None:
        """Before its record is saved: a crash between the two costs no second scoring."""
        row = (score.model, score.weights_version, score.test_set, json.dumps(to_json_value(score)), at_s)
        self._db.execute("INSERT OR REPLACE INTO checkpoint_scores VALUES (?, ?, ?, ?, ?)", row)

    def score(self, model: str, weights_version: str, test_set: str) -> CheckpointScore | None:
        row = self._db.execute(
            "SELECT score FROM checkpoint_scores WHERE model = ? AND weights_version = ? AND test_set = ?",
            (model, weights_version, test_set),
        ).fetchone()
        return None if row is None else from_json_value(CheckpointScore, json.loads(row[0]), path="checkpoint_scores")

    def latest_score(self, model: str, weights_version: str) -> CheckpointScore | None:
        """Of the test set it was asked last."""
        row = self._db.execute(
            "SELECT test_set FROM checkpoint_scores WHERE model = ? AND weights_version = ? ORDER BY at_s DESC LIMIT 1",
            (model, weights_version),
        ).fetchone()
        return None if row is None else self.score(model, weights_version, str(row[0]))

    def only(self, paths: Iterable[str]) -> None:
        """These are there; all others are gone, and the oldest of those are forgotten."""
        here = set(paths)
        known = self._db.execute("SELECT path, gone FROM checkpoints").fetchall()
        changed = [(path not in here, path) for path, gone in known if bool(gone) != (path not in here)]
        if not changed:
            return
        self._db.executemany("UPDATE checkpoints SET gone = ? WHERE path = ?", changed)
        self._db.execute(
            "DELETE FROM checkpoints WHERE gone = 1 AND path NOT IN "
            "(SELECT path FROM checkpoints WHERE gone = 1 ORDER BY at_s DESC LIMIT ?)",
            (MAX_GONE,),
        )
        self._db.execute(
            "DELETE FROM checkpoint_scores WHERE weights_version NOT IN "
            "(SELECT weights_version FROM checkpoints WHERE weights_version IS NOT NULL AND gone = 0) "
            "AND rowid NOT IN (SELECT rowid FROM checkpoint_scores ORDER BY at_s DESC LIMIT ?)",
            (MAX_SCORES,),
        )


def _record(row: tuple[Any, ...]) -> Record:
    model, path, stamp, state, step, weights_version, test_set, reason, num_attempts, at_s = row
    return Record(
        model=model,
        path=path,
        stamp=stamp,
        state=State(state),
        step=step,
        weights_version=weights_version,
        test_set=test_set,
        reason=reason,
        num_attempts=num_attempts,
        at_s=at_s,
    )
