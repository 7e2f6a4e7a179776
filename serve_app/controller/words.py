"""What the weights of each model say to the fixed prompts, kept so that whatever starts again is held against it.

What a rollout was committed with holds on every node. What nobody rolled out is believed at its first start on a node,
and holds there. Sums differ in their last bits with engine, type and devices, so each has its own record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from pydantic import TypeAdapter

from serve_app.controller.claims import Slot
from serve_app.engines.fingerprint import Fingerprint

MAX_KEPT: Final = 1000
_EVERYWHERE: Final = ""
_FINGERPRINT: Final = TypeAdapter(Fingerprint)
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS words (
    model TEXT NOT NULL, version TEXT NOT NULL, setup TEXT NOT NULL, node TEXT NOT NULL, fingerprint BLOB NOT NULL,
    PRIMARY KEY (model, version, setup, node)
)
"""


class Words:
    """`connection` commits each statement by itself. The newest `MAX_KEPT` are kept."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.execute(_SCHEMA)

    def of(self, slot: Slot) -> Fingerprint | None:
        """What an engine in this slot should say. None: nobody knows yet."""
        row = self._db.execute(
            "SELECT fingerprint FROM words WHERE model = ? AND version = ? AND setup = ? AND node IN (?, ?) "
            "ORDER BY node LIMIT 1",
            (slot.model, slot.weights.version, _setup(slot), _EVERYWHERE, slot.node),
        ).fetchone()
        return _FINGERPRINT.validate_json(row[0]) if row else None

    def believe(self, slot: Slot, said: Fingerprint) -> None:
        """A first start on this node. Where something is known already, that stays; a candidate is not believed."""
        if not slot.is_candidate and self.of(slot) is None:
            self._put(slot, slot.node, said)

    def committed(self, slots: Iterable[Slot], said: Fingerprint) -> None:
        """What was proved before these slots were given their weights; it goes before all that was believed."""
        for slot in slots:
            self._put(slot, _EVERYWHERE, said)

    def forget(self, model: str) -> None:
        self._db.execute("DELETE FROM words WHERE model = ?", (model,))

    def _put(self, slot: Slot, node: str, said: Fingerprint) -> None:
        row = (slot.model, slot.weights.version, _setup(slot), node, _FINGERPRINT.dump_json(said))
        self._db.execute("INSERT OR REPLACE INTO words VALUES (?, ?, ?, ?, ?)", row)
        self._db.execute(
            "DELETE FROM words WHERE rowid <= (SELECT rowid FROM words ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
            (MAX_KEPT,),
        )


def _setup(slot: Slot) -> str:
    arguments = slot.arguments
    return f"{slot.device_kind.value} {arguments.dtype} x{arguments.tensor_parallel} vllm {_engine_version()}"


def _engine_version() -> str:
    try:
        return version("vllm")
    except PackageNotFoundError:  # an engine of the tests
        return "none"
