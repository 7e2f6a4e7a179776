"""Alerts as people meet them: a history in the store, and whoever asked to be called back.

The state machine's own alerts live on a monotonic clock; here they get wall-clock times and a number of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from placement.health_rules import MODEL_RULES, Action, RuleName, Severity
from placement.health_state import Alert
from serve_app.logs import logger

log = logger(__name__)

MAX_PAGE = 1000
MAX_CALLBACKS = 64
FLEET = ""
"""Stands for the device where an alert is of the whole fleet."""
_COLUMNS = "id, rule, device, severity, action, dry_run, message, value, bound, fired_at_s, acted_at_s, cleared_at_s"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT NOT NULL, device TEXT NOT NULL, severity TEXT NOT NULL,
    action TEXT NOT NULL, dry_run INTEGER NOT NULL, message TEXT NOT NULL, value REAL, bound REAL,
    fired_at_s REAL NOT NULL, acted_at_s REAL, cleared_at_s REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS alerts_active ON alerts (rule, device) WHERE cleared_at_s IS NULL;
CREATE INDEX IF NOT EXISTS alerts_device ON alerts (device, id);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertEntry:
    """One alert from firing to clearing. Times in seconds since 1970; None: not yet.

    `device` is `FLEET` for all, and `model:<id>` for what is of a model.
    """

    id: int
    rule: RuleName
    device: str
    severity: Severity
    action: Action
    dry_run: bool
    message: str
    value: float | None
    limit: float | None
    fired_at_s: float
    acted_at_s: float | None
    cleared_at_s: float | None

    @property
    def response_s(self) -> float | None:
        """From firing to the action carried out."""
        return None if self.acted_at_s is None else self.acted_at_s - self.fired_at_s


class AlertHistory:
    """The newest `max_kept` alerts, and older ones that are still active."""

    def __init__(self, connection: sqlite3.Connection, *, max_kept: int) -> None:
        """`connection` commits each statement by itself (`isolation_level=None`)."""
        assert connection.isolation_level is None
        self._db = connection
        self._max_kept = max_kept
        self._db.executescript(_SCHEMA)

    def fired(self, alert: Alert, *, at_s: float, dry_run: bool) -> AlertEntry:
        """A second firing without a clearing between, as after a crash, is the same entry."""
        device = alert.device or FLEET
        self._db.execute(
            "INSERT OR IGNORE INTO alerts (rule, device, severity, action, dry_run, message, value, bound, fired_at_s) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                alert.rule,
                device,
                alert.severity,
                alert.action,
                dry_run,
                alert.message,
                alert.value,
                alert.limit,
                at_s,
            ),
        )
        entry = self._active(alert.rule, device)
        assert entry is not None
        self._db.execute("DELETE FROM alerts WHERE id <= ? AND cleared_at_s IS NOT NULL", (entry.id - self._max_kept,))
        return entry

    def acted(self, alert: Alert, *, at_s: float) -> AlertEntry | None:
        """Its action was carried out; the first time counts. None when it is not active here."""
        return self._mark("acted_at_s", alert, at_s)

    def cleared(self, alert: Alert, *, at_s: float) -> AlertEntry | None:
        """None when it was not active here."""
        return self._mark("cleared_at_s", alert, at_s)

    def settle(self, active: Iterable[Alert], *, at_s: float) -> None:
        """After a restart: what is active here and no longer there was cleared while nobody could write it down.

        Alerts of models are left alone: who raises them clears them.
        """
        known = {(alert.rule, alert.device or FLEET) for alert in active}
        rows = self._db.execute("SELECT id, rule, device FROM alerts WHERE cleared_at_s IS NULL").fetchall()
        gone = [(at_s, id_) for id_, rule, device in rows if (rule, device) not in known and rule not in MODEL_RULES]
        self._db.executemany("UPDATE alerts SET cleared_at_s = ? WHERE id = ?", gone)

    def page(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        active: bool | None = None,
        device: str | None = None,
        rule: RuleName | None = None,
        severity: Severity | None = None,
    ) -> tuple[AlertEntry, ...]:
        """Newest first. `before` is the last id of the page before; None for a filter takes all."""
        wanted = {"device = ?": device, "rule = ?": rule, "severity = ?": severity, "id < ?": before}
        terms = [term for term, value in wanted.items() if value is not None]
        values = [value for value in wanted.values() if value is not None]
        if active is not None:
            terms.append("cleared_at_s IS NULL" if active else "cleared_at_s IS NOT NULL")
        where = f"WHERE {' AND '.join(terms)}" if terms else ""
        query = f"SELECT {_COLUMNS} FROM alerts {where} ORDER BY id DESC LIMIT ?"  # noqa: S608  # all of it ours
        rows = self._db.execute(query, (*values, max(1, min(limit, MAX_PAGE))))
        return tuple(_entry(row) for row in rows.fetchall())

    def _mark(self, column: str, alert: Alert, at_s: float) -> AlertEntry | None:
        row = self._db.execute(
            f"UPDATE alerts SET {column} = COALESCE({column}, ?) "  # noqa: S608  # one of two columns
            f"WHERE rule = ? AND device = ? AND cleared_at_s IS NULL RETURNING {_COLUMNS}",
            (at_s, alert.rule, alert.device or FLEET),
        ).fetchone()
        return None if row is None else _entry(row)

    def _active(self, rule: RuleName, device: str) -> AlertEntry | None:
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM alerts WHERE rule = ? AND device = ? AND cleared_at_s IS NULL",  # noqa: S608
            (rule, device),
        ).fetchone()
        return None if row is None else _entry(row)


class Callbacks:
    """Whoever wants to hear of alerts. One that raises is told in the log and counted, and stops no other."""

    def __init__(self) -> None:
        self._called: list[Callable[[AlertEntry], None]] = []
        self.num_failed = 0

    def add(self, callback: Callable[[AlertEntry], None]) -> Callable[[], None]:
        """Called with each entry as it fires and clears; it must not block. Call what is returned to stop that."""
        assert len(self._called) < MAX_CALLBACKS
        self._called.append(callback)
        return lambda: self._called.remove(callback)

    def tell(self, entry: AlertEntry) -> None:
        for callback in tuple(self._called):
            try:
                callback(entry)
            except Exception as error:  # noqa: BLE001  # theirs, of any kind
                self.num_failed += 1
                log.error("alert callback failed", rule=entry.rule, device=entry.device, error=type(error).__name__)


def _entry(row: tuple[Any, ...]) -> AlertEntry:
    id_, rule, device, severity, action, dry_run, message, value, bound, fired, acted, cleared = row
    return AlertEntry(
        id=id_,
        rule=RuleName(rule),
        device=str(device),
        severity=Severity(severity),
        action=Action(action),
        dry_run=bool(dry_run),
        message=str(message),
        value=value,
        limit=bound,
        fired_at_s=fired,
        acted_at_s=acted,
        cleared_at_s=cleared,
    )
