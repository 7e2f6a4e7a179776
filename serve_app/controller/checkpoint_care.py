"""Care for checkpoints, once a day: what serves or is pinned is verified, what is old and of no use is archived.

What is kept and why is decided in `compare.care`; a checkpoint that was changed becomes an alert of its model.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from placement.health_rules import RuleName
from serve_app.compare.archive import Checked, archive_old, listed, pins, unpin, verify_baseline
from serve_app.compare.care import Key
from serve_app.controller.bringup import Bringup
from serve_app.controller.model_alerts import ModelAlerts
from serve_app.controller.rollout_desk import PINNED_BY
from serve_app.logs import logger
from serve_app.rollout.record import Record
from serve_app.rollout.returnable import weights_of
from serve_app.turns import kept

EVERY_S: Final = 86_400.0
AGAIN_S: Final = 3600.0
"""After one that failed."""
_LOOK_S: Final = 60.0
_OWN_PIN: Final = re.compile(rf"^{PINNED_BY}-(\d+)$")
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS checkpoint_care (only_row INTEGER PRIMARY KEY CHECK (only_row), due_s REAL)"
)


class CheckpointCare:
    """`needed` are the rollouts that one can go back from, `resumed` paths of checkpoints that jobs will go on from."""

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        bringup: Bringup,
        alerts: ModelAlerts,
        needed: Callable[[], tuple[Record, ...]],
        resumed: Callable[[], Iterable[str]],
        clock: Callable[[], float],
    ) -> None:
        """`connection` commits each statement by itself; `clock` is the wall clock."""
        assert connection.isolation_level is None
        self._db = connection
        self._db.execute(_SCHEMA)
        self._bringup = bringup
        self._alerts = alerts
        self._needed = needed
        self._resumed = resumed
        self._clock = clock

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await kept(self.turn, what="care for checkpoints")

    async def turn(self) -> None:
        """Only where the last care is a day ago. Raises: HeadroomError, OSError; it is tried again in an hour."""
        row, now_s = self._db.execute("SELECT due_s FROM checkpoint_care").fetchone(), self._clock()
        if row is not None and now_s < row[0] <= now_s + EVERY_S:
            return
        self._next(now_s + AGAIN_S)
        await self.care(now_s=now_s)
        self._next(now_s + EVERY_S)

    async def care(self, *, now_s: float) -> None:
        """Raises: HeadroomError, OSError."""
        settings = self._bringup.settings
        home, after_s = settings.storage.home, settings.training.archive_after_s
        records = self._needed()
        await asyncio.to_thread(_release_pins, home, {record.id for record in records}, now_s)
        self._tell(await asyncio.to_thread(verify_baseline, home, now_s=now_s))
        if after_s:
            previous = self._kept(records, home)
            moved = await asyncio.to_thread(archive_old, home, now_s=now_s, previous=previous, after_s=after_s)
            for path in moved:
                _log.info("old checkpoint archived", checkpoint=str(path))

    def _next(self, due_s: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO checkpoint_care VALUES (1, ?)", (due_s,))

    def _kept(self, records: Iterable[Record], home: Path) -> frozenset[Key]:
        """What serves by the plan itself, what a rollout or a job may still need."""
        serving = (weights.path for weights in self._bringup.state.weights.values())
        returnable = (Path(weights.path) for weights in weights_of(records))
        paths = (*serving, *returnable, *map(Path, self._resumed()))
        return frozenset((path.parent.name, path.name) for path in paths if path.is_relative_to(home))

    def _tell(self, checked: Iterable[Checked]) -> None:
        problems: dict[str, list[str]] = {}
        for one in checked:
            problems.setdefault(one.path.parent.name, []).extend([one.problem] if one.problem else [])
        for model, found in problems.items():
            if found:
                self._alerts.raised(RuleName.CHECKPOINT_DAMAGED, model, " ".join(found)[:1000])
            else:
                self._alerts.cleared(RuleName.CHECKPOINT_DAMAGED, model)
        self._alerts.only(RuleName.CHECKPOINT_DAMAGED, problems)


def _release_pins(home: Path, rollouts: Collection[int], now_s: float) -> None:
    """Pins of rollouts that nobody can go back from any more. Raises: HeadroomError, OSError."""
    folders: Mapping[Path, str] = {one.path.parent: one.checkpoint.model for one in listed(home, now_s=now_s)}
    for folder, model in folders.items():
        for name, holders in dict(pins(folder)).items():
            for holder in holders:
                own = _OWN_PIN.match(holder)
                if own is not None and int(own.group(1)) not in rollouts:
                    unpin(home, model, name, by=holder)


_log = logger("headroom.learning")
