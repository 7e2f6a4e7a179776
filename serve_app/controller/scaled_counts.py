"""Counts that scaling put in force, kept over a restart until the configuration names another.

A row holds as long as the configuration says what it said then: whoever edits the count in cluster.yaml means it.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from serve_app.config.settings import ModelSettings, Settings
from serve_app.scaling.rules import Kind, Target

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scaled_counts (
    target TEXT PRIMARY KEY, configured INTEGER NOT NULL, base INTEGER NOT NULL, count INTEGER NOT NULL
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """`configured` is what the configuration named then; limits that nobody gave are at `base`."""

    configured: int
    base: int
    count: int


class ScaledCounts:
    """At most one row for each model, and one each for gateways and trainers."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.execute(_SCHEMA)

    def of(self, target: Target, *, configured: int) -> Scaled:
        """What is in force now that the configuration names `configured`."""
        row = self._db.execute(
            "SELECT base, count FROM scaled_counts WHERE target = ? AND configured = ?", (target.name, configured)
        ).fetchone()
        base, count = row or (configured, configured)
        return Scaled(configured=configured, base=base, count=count)

    def scaled(self, target: Target, count: int, *, configured: int, by_hand: bool) -> Scaled:
        """Writes the new count down; gives what was in force before, for `restore`."""
        before = self.of(target, configured=configured)
        self.restore(target, replace(before, count=count, base=count if by_hand else before.base))
        return before

    def restore(self, target: Target, scaled: Scaled) -> None:
        row = (target.name, scaled.configured, scaled.base, scaled.count)
        self._db.execute("INSERT OR REPLACE INTO scaled_counts VALUES (?, ?, ?, ?)", row)

    def on(self, settings: Settings) -> Settings:
        """The settings of cluster.yaml with the counts in force."""
        return replace(settings, models=tuple(self._on(model) for model in settings.models))

    def _on(self, model: ModelSettings) -> ModelSettings:
        target = Target(kind=Kind.ENGINE, model=model.id)
        return with_count(model, self.of(target, configured=model.num_configured).count)


def with_count(model: ModelSettings, count: int) -> ModelSettings:
    return replace(model, num_replicas=count, num_named=model.num_configured)
