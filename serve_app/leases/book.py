"""The durable ledger of leases: one SQLite file, written before any answer is given, and its index in memory.

WAL mode with full synchronisation: what was committed is there after a power cut. One process owns the file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from placement.lease import LOCAL_TENANT, Lease, LeasePolicy, LeaseState
from placement.lease_index import Change, LeaseIndex
from placement.lease_rules import Decision
from placement.lease_time import restored
from serve_app.errors import AlreadyRunning
from serve_app.leases.clock import Clock

_COLUMNS = tuple(field.name for field in fields(Lease))
_values = attrgetter(*_COLUMNS)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS lease_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
  {", ".join("epoch INTEGER PRIMARY KEY" if name == "epoch" else name for name in _COLUMNS)}, written_s REAL NOT NULL
);
"""
_PUT = f"INSERT OR REPLACE INTO leases ({', '.join(_COLUMNS)}, written_s) VALUES ({'?, ' * len(_COLUMNS)}?)"  # noqa: S608  # names of our own fields
_GET = f"SELECT {', '.join(_COLUMNS)} FROM leases ORDER BY epoch"  # noqa: S608
_EPOCHS_AHEAD = 1000
"""Reserved at a time, so that not every grant writes the counter; those not used are lost with the process."""


class LeaseBook:
    """`index` is what the file says, plus what no restart keeps (claims, measured bytes).

    Changes go in with `put` and count once `commit` has returned; until then nobody may be told of them.
    """

    def __init__(self, path: Path, *, clock: Clock, policy: LeasePolicy) -> None:
        """Raises: AlreadyRunning when another process owns the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._policy = policy
        self._lock = _owned(path)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._add_tenants()
        self._take_over()
        self._reserved = self._next_epoch()
        self.index = LeaseIndex(self._rows(), next_epoch=self._reserved)

    def put(self, decision: Decision[Any]) -> None:
        """Into the open transaction and the index. Raises: sqlite3.Error; the book must then be `reload`ed."""
        if decision.changes:
            self._begin()
            self._write(decision.changes)
        decision.apply_to(self.index)
        if self.index.next_epoch > self._reserved:
            self._reserve()

    def commit(self) -> None:
        """Returns once everything put is on the disk. Raises: sqlite3.Error; the book must then be `reload`ed."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def reload(self) -> None:
        """Back to what the file says, after a write that failed; writes nothing itself.

        Measured bytes are kept: they are facts. So are claims whose notices are in the file. Epochs go on rising.
        """
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        before, self._reserved = self.index, self._next_epoch()
        self.index = LeaseIndex(self._rows(), next_epoch=before.next_epoch)
        known = {key: num for key, num in before.measured_bytes.items() if key in self.index.held}
        self.index.measured_bytes.update(known)
        unnoticed = {lease.lease_id for lease in self.index.held.values() if lease.state is LeaseState.HELD}
        claims = {device: claim for device, claim in before.claims.items() if not claim.victims & unnoticed}
        self.index.claims.update(claims)

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _write(self, changes: Iterable[Change]) -> None:
        now_s = self._clock.now_s()
        for change in changes:
            if change.is_kept:
                self._db.execute(_PUT, (*_values(change.lease), now_s))
            else:
                self._db.execute("DELETE FROM leases WHERE epoch = ?", (change.lease.epoch,))

    def _rows(self) -> Iterator[Lease]:
        for row in self._db.execute(_GET):
            values = dict(zip(_COLUMNS, row, strict=True))
            yield Lease(**{**values, "state": LeaseState(values["state"])})

    def _add_tenants(self) -> None:
        """A ledger of before leases had tenants: its leases are of those who asked without a key."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(leases)")}
        if "tenant" not in columns:
            self._db.execute(f"ALTER TABLE leases ADD COLUMN tenant NOT NULL DEFAULT '{LOCAL_TENANT}'")

    def _take_over(self) -> None:
        """Brings what another process wrote onto this machine's clock, once."""
        boot, written_s = self._meta("boot"), self._db.execute("SELECT MAX(written_s) FROM leases").fetchone()[0]
        now_s = self._clock.now_s()
        same = boot == self._clock.boot
        shift_s = 0.0 if same or written_s is None else now_s - written_s
        leases = restored(
            self._rows(), policy=self._policy, now_s=now_s, shift_s=shift_s, knows_downtime=same or boot is None
        )
        self._begin()
        for lease in leases:
            self._db.execute(_PUT, (*_values(lease), now_s))
        self._set_meta("boot", self._clock.boot)
        self._db.execute("COMMIT")

    def _next_epoch(self) -> int:
        return int(self._meta("next_epoch") or 1)

    def _reserve(self) -> None:
        """Before an epoch beyond the reserved ones is told: it is committed with the grant that uses it."""
        self._begin()
        self._reserved = self.index.next_epoch + _EPOCHS_AHEAD
        self._set_meta("next_epoch", str(self._reserved))

    def _meta(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM lease_meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def _set_meta(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO lease_meta VALUES (?, ?)", (key, value))


def _owned(path: Path) -> int:
    """A descriptor whose lock lasts as long as this process."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise AlreadyRunning(
            f"The lease ledger {path} belongs to another process.",
            expected="One lease server for one ledger.",
            advice="Stop the other server, or name another ledger.",
        ) from error
    return lock
