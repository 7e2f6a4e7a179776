"""Which weights serve a model since a rollout: stored in one write with the plan that says so, the commit of a switch.

The link `deployed` in the model's folder follows the store, for people and other programs; it is never asked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from serve_app.config.settings import ModelSettings
from serve_app.controller.claims import Weights
from serve_app.logs import logger
from serve_app.training.deployed import step_in_name, write_deployed

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS served (
    model TEXT PRIMARY KEY, source TEXT NOT NULL, path TEXT NOT NULL, version TEXT NOT NULL, step INTEGER
)
"""


class Served:
    """`connection` commits each statement by itself."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.execute(_SCHEMA)

    def path_of(self, model: ModelSettings) -> Path | None:
        """None: nothing was rolled out since the model got this source, or what was is gone from the disk."""
        row = self._db.execute("SELECT source, path FROM served WHERE model = ?", (model.id,)).fetchone()
        if row is None or row[0] != model.source:
            return None
        path = Path(row[1])
        return path if path.is_dir() else None

    def save(self, model: ModelSettings, weights: Weights) -> None:
        row = (model.id, model.source, str(weights.path), weights.version, weights.step)
        self._db.execute("INSERT OR REPLACE INTO served VALUES (?, ?, ?, ?, ?)", row)

    def keep(self, model: ModelSettings, weights: Weights) -> None:
        """As `save`, unless something serves the model from this source already."""
        if self.path_of(model) is None:
            self.save(model, weights)
            show_link(model.id, weights.path)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything written within is in the store, or nothing of it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def show_links(self) -> None:
        """Make every `deployed` link say what the store says; one that cannot be written is told, not fatal."""
        for model, path in self._db.execute("SELECT model, path FROM served"):
            show_link(model, Path(path))


def show_link(model: str, checkpoint: Path) -> None:
    if step_in_name(checkpoint) is None or not checkpoint.is_dir():
        return
    try:
        write_deployed(checkpoint.parent, checkpoint)
    except (OSError, ValueError) as error:
        _log.error("the link `deployed` cannot be written", model=model, checkpoint=str(checkpoint), error=repr(error))


_log = logger("headroom.controller")
