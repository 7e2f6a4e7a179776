"""SQLite files saved and brought back through SQLite itself: a file copy would lose what is still in the WAL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import AlreadyRunning
from serve_app.rollout.backup_manifest import damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRows:
    """Rows that a restore leaves as they are now, because they must never go back: revoked keys, epochs, quarantine.

    `keys` are values of the table's column `key`; empty means the whole table.
    """

    table: str
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.table.isidentifier(), "the name of a table goes into SQL"


CONTROLLER_KEEPS = (
    KeptRows(table="meta", keys=("next_epoch", "internal_secret")),
    KeptRows(table="tenures"),
    KeptRows(table="standings"),
    KeptRows(table="access_version"),  # before the keys, whose triggers count it up
    KeptRows(table="access_keys"),
    KeptRows(table="rollouts"),
    KeptRows(table="rollouts_turned_away"),
    KeptRows(table="jobs"),
    KeptRows(table="job_meta"),
    KeptRows(table="alerts"),
    KeptRows(table="objective_counts"),
    KeptRows(table="scaled_counts"),
    KeptRows(table="live_runs"),
    KeptRows(table="live_tries"),
)
"""Facts of now and not of then: epochs only rise, who holds a slot, which device is quarantined, which keys are
revoked, what was rolled out or turned away, which jobs ran, what was counted. A key or a job that came back would act.
"""


def save_database(source: Path, target: Path) -> None:
    """One consistent state of `source`, whoever writes it meanwhile, as a single whole file.

    Raises: sqlite3.Error, also when what was copied is not sound.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    uri = f"{source.resolve().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True)) as live,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        if faults := _faults(copy):
            raise sqlite3.DatabaseError(f"{source} is not sound: {faults}")


def check_database(copy: Path) -> None:
    """Raises: BackupRefused."""
    try:
        with closing(_saved(copy)) as saved:
            faults = _faults(saved)
    except sqlite3.Error as error:
        faults = str(error)
    if faults:
        raise damaged(copy.parents[1].name, f"{copy.name} is not a sound database ({faults})")


def restore_database(copy: Path, into: sqlite3.Connection, *, kept: Iterable[KeptRows]) -> None:
    """All of `into` becomes what `copy` holds, but for `kept`, in one transaction: after a crash it is old or new.

    For the one owner of the file, in autocommit and outside a transaction.
    Raises: sqlite3.Error, and then nothing has changed.
    """
    assert into.isolation_level is None
    assert not into.in_transaction
    with closing(_saved(copy)) as saved, closing(sqlite3.connect("", isolation_level=None)) as merged:
        saved.backup(merged)
        for rows in kept:
            _carry_over(rows, into, merged)
        merged.backup(into)


@contextmanager
def nobody_else_uses(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that keeps all others out until it is closed.

    Raises: AlreadyRunning when somebody has the file open, such as a running controller.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
        try:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise AlreadyRunning(
                f"{path} is in use ({error}).",
                expected="Expected a cluster that is stopped.",
                advice="Run `headroom down` first.",
            ) from error
        yield db


def _saved(copy: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{copy.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def _faults(db: sqlite3.Connection) -> str:
    told = [str(row[0]) for row in db.execute("PRAGMA integrity_check(3)")]
    return "" if told == ["ok"] else "; ".join(told)


def _carry_over(rows: KeptRows, now: sqlite3.Connection, merged: sqlite3.Connection) -> None:
    """A table that is not there now keeps what was saved of it: nothing of now could be lost."""
    made = _made_by(now, rows.table)
    if not made:
        return
    if not _made_by(merged, rows.table) or not rows.keys:
        merged.execute(f"DROP TABLE IF EXISTS {rows.table}")
        for statement in made:
            merged.execute(statement)
    where = f" WHERE key IN ({', '.join('?' * len(rows.keys))})" if rows.keys else ""
    merged.execute(f"DELETE FROM {rows.table}{where}", rows.keys)  # noqa: S608  an identifier of our own
    found = now.execute(f"SELECT * FROM {rows.table}{where}", rows.keys)  # noqa: S608
    places = ", ".join("?" * len(found.description))
    merged.executemany(f"INSERT INTO {rows.table} VALUES ({places})", found)  # noqa: S608


def _made_by(db: sqlite3.Connection, table: str) -> list[Any]:
    """The statements that made a table and its indices, the table's first; empty when there is no such table."""
    asked = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type != 'table'"
    return [row[0] for row in db.execute(asked, (table,))]
