"""Goals and the jobs they became, in two tables of the store; written before anything is submitted."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from placement.codec import from_json_value, to_json_value
from serve_app.goals.goal import Goal, GoalEntry, GoalJob, GoalState

MAX_OPEN: Final = 100
MAX_ENDED: Final = 1000
"""Ended goals kept, the newest."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS goals (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, model TEXT NOT NULL, goal TEXT NOT NULL,
    state TEXT NOT NULL, why TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS goal_jobs (
    goal TEXT NOT NULL, number INTEGER NOT NULL, job TEXT NOT NULL, PRIMARY KEY (goal, number)
);
"""


class GoalStore:
    """Its own tables of a connection that commits each statement by itself (`isolation_level=None`)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        assert connection.isolation_level is None
        self._db = connection
        self._db.executescript(_SCHEMA)

    def add(self, goal: Goal) -> None:
        row = (goal.id, goal.model, json.dumps(to_json_value(goal)), GoalState.OPEN.value)
        self._db.execute("INSERT INTO goals (id, model, goal, state, why) VALUES (?, ?, ?, ?, '')", row)

    def num_open(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM goals WHERE state = ?", (GoalState.OPEN,)).fetchone()[0])

    def settle(self, goal_id: str, state: GoalState, why: str) -> None:
        """Also what an open goal waits for. One that has ended stays as it is; the oldest ended are forgotten."""
        self._db.execute(
            "UPDATE goals SET state = ?, why = ? WHERE id = ? AND state = ?", (state, why, goal_id, GoalState.OPEN)
        )
        self._db.execute(
            "DELETE FROM goals WHERE state != ? AND id NOT IN "
            "(SELECT id FROM goals WHERE state != ? ORDER BY number DESC LIMIT ?)",
            (GoalState.OPEN, GoalState.OPEN, MAX_ENDED),
        )
        self._db.execute("DELETE FROM goal_jobs WHERE goal NOT IN (SELECT id FROM goals)")

    def save_job(self, goal_id: str, number: int, job: GoalJob) -> None:
        """`number` counts the goal's jobs from 0."""
        row = (goal_id, number, json.dumps(to_json_value(job)))
        self._db.execute("INSERT OR REPLACE INTO goal_jobs VALUES (?, ?, ?)", row)

    def entry(self, goal_id: str) -> GoalEntry | None:
        row = self._db.execute("SELECT goal, state, why FROM goals WHERE id = ?", (goal_id,)).fetchone()
        return None if row is None else self._entry(row)

    def page(
        self, *, limit: int, before: int | None = None, state: GoalState | None = None, model: str | None = None
    ) -> tuple[tuple[int, GoalEntry], ...]:
        """Newest first, each with its number; None takes all."""
        rows = self._db.execute(
            "SELECT number, goal, state, why FROM goals WHERE (?1 IS NULL OR number < ?1) "
            "AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR model = ?3) ORDER BY number DESC LIMIT ?4",
            (before, state, model, limit),
        ).fetchall()
        return tuple((int(number), self._entry(tuple(rest))) for number, *rest in rows)

    def open_goals(self) -> tuple[GoalEntry, ...]:
        return tuple(entry for _, entry in self.page(limit=MAX_OPEN, state=GoalState.OPEN))

    def _entry(self, row: tuple[str, ...]) -> GoalEntry:
        goal = from_json_value(Goal, json.loads(row[0]), path="goals")
        jobs = self._db.execute("SELECT job FROM goal_jobs WHERE goal = ? ORDER BY number", (goal.id,)).fetchall()
        return GoalEntry(
            goal=goal,
            state=GoalState(row[1]),
            why=row[2],
            jobs=tuple(from_json_value(GoalJob, json.loads(job), path="goal_jobs") for (job,) in jobs),
        )
