"""Jobs in the controller's store: written before anything is acted on, so that a crash at any write can go on.

One row holds one whole job; each write is one statement, and commits by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter

from serve_app.jobs.job import OVER, Job, JobKind, JobState, Moment
from serve_app.leases.clock import Clock

MAX_PAGE: Final = 1000
_JOB: Final = TypeAdapter(Job)
_OVER: Final = ", ".join(f"'{state.value}'" for state in sorted(OVER))
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, kind TEXT NOT NULL,
    model TEXT, is_settled INTEGER NOT NULL, job BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (is_settled, number);
CREATE TABLE IF NOT EXISTS job_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_PUT: Final = """
INSERT INTO jobs (id, state, kind, model, is_settled, job) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, is_settled = excluded.is_settled, job = excluded.job
"""


class JobLedger:
    """All jobs that are not over, and the newest `max_over` that are."""

    def __init__(self, connection: sqlite3.Connection, *, max_over: int = 1000) -> None:
        """`connection` commits each statement by itself (`isolation_level=None`)."""
        assert connection.isolation_level is None
        self._db = connection
        self._max_over = max_over
        self._db.executescript(_SCHEMA)

    def put(self, job: Job) -> None:
        """Returns once it is on the disk. Raises: sqlite3.Error; then nothing was changed."""
        is_settled = job.is_over and job.placed is None
        self._db.execute(
            _PUT, (job.id, job.state.value, job.spec.kind.value, job.spec.model, is_settled, _JOB.dump_json(job))
        )
        if is_settled:
            self._prune()

    def unsettled(self) -> tuple[Job, ...]:
        """Jobs that are not over, or whose shares are not given back; in the order they were submitted."""
        rows = self._db.execute("SELECT job FROM jobs WHERE is_settled = 0 ORDER BY number").fetchall()
        return tuple(_JOB.validate_json(blob) for (blob,) in rows)

    def job(self, job_id: str) -> Job | None:
        row = self._db.execute("SELECT job FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _JOB.validate_json(row[0])

    def page(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        state: JobState | None = None,
        kind: JobKind | None = None,
        model: str | None = None,
    ) -> tuple[Sequence[Job], int | None]:
        """Newest first, and what `before` is for the next page; None at the end. None for a filter takes all."""
        wanted = {"state = ?": state, "kind = ?": kind, "model = ?": model, "number < ?": before}
        terms = [term for term, value in wanted.items() if value is not None]
        where = f"WHERE {' AND '.join(terms)}" if terms else ""
        query = f"SELECT number, job FROM jobs {where} ORDER BY number DESC LIMIT ?"  # noqa: S608  # all of it ours
        values = [value for value in wanted.values() if value is not None]
        limit = max(1, min(limit, MAX_PAGE))
        rows = self._db.execute(query, (*values, limit + 1)).fetchall()
        shown = rows[:limit]
        following = int(shown[-1][0]) if len(rows) > limit else None
        return tuple(_JOB.validate_json(blob) for _, blob in shown), following

    def counts(self) -> dict[tuple[str, str], int]:
        """How many jobs are kept, by kind and state."""
        rows = self._db.execute("SELECT kind, state, COUNT(*) FROM jobs GROUP BY kind, state").fetchall()
        return {(str(kind), str(state)): int(num) for kind, state, num in rows}

    def _prune(self) -> None:
        self._db.execute(
            "DELETE FROM jobs WHERE is_settled = 1 AND number <= "  # noqa: S608  # numbers and words of ours
            f"(SELECT number FROM jobs WHERE state IN ({_OVER}) ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._max_over,),
        )

    # -- The clock of jobs ---------------------------------------------------------------------------

    def clock_offset_s(self, clock: Clock) -> float:
        """What to add to this machine's clock so that the time of jobs goes on from where it was, also after a restart.

        Within one run of the machine the clock itself goes on. After that, time begins where the newest job left it:
        how long the machine was off is nobody's waiting.
        """
        row = self._db.execute("SELECT value FROM job_meta WHERE key = 'clock'").fetchone()
        boot, offset = row[0].split(" ") if row else ("", "0")
        if boot == clock.boot:
            return float(offset)
        offset_s = self._last_s() - clock.now_s() if row else 0.0
        self._db.execute("INSERT OR REPLACE INTO job_meta VALUES ('clock', ?)", (f"{clock.boot} {offset_s!r}",))
        return offset_s

    def _last_s(self) -> float:
        jobs = self.unsettled()
        times = [
            moment.now_s
            for job in (*jobs, *self.page(limit=1)[0])
            for moment in (job.submitted, job.queued, job.scheduled, job.started, job.ended)
            if moment is not None
        ]
        return max(times, default=0.0)


class JobClock:
    """Moments of jobs: the first clock never goes back, not over a restart of the machine either."""

    def __init__(self, clock: Clock, ledger: JobLedger) -> None:
        self._clock = clock
        self._offset_s = ledger.clock_offset_s(clock)

    def now(self) -> Moment:
        return Moment(self._clock.now_s() + self._offset_s, self._clock.unix_s())
