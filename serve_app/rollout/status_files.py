"""`status/*.json` for people and other programs: made anew from what the store holds, whole at every moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.record import Record
from serve_app.rollout.views import view_of

DEPLOYMENT_STATUS: Final = "deployment_status.json"
TRAINING_STATUS: Final = "training_status.json"
Replace = Callable[[Path, Path], object]


class DeploymentStatus:
    """Called with each record that was written; makes the file again when a stage has changed.

    `replace` puts a file in the place of another at once.
    """

    def __init__(self, folder: Path, ledger: RolloutLedger, *, replace: Replace = os.replace) -> None:
        self._folder = folder
        self._ledger = ledger
        self._replace = replace
        self._written: tuple[object, ...] = ()

    def __call__(self, record: Record) -> None:
        """Raises: OSError."""
        now = (record.id, record.stage, record.hold)
        if now != self._written:
            self.write()
            self._written = now

    def write(self) -> None:
        """Raises: OSError; the file of before is there still."""
        records = [view_of(record).model_dump() for record in self._ledger.page()]
        current = self._ledger.current()
        body = {"current": None if current is None else current.id, "deployments": records}
        write_json(self._folder / DEPLOYMENT_STATUS, body, replace=self._replace)


def write_training_status(
    folder: Path, jobs: Sequence[Mapping[str, str | int | float | None]], *, at_unix_s: float
) -> None:
    """One entry per job, as who runs them tells it. Raises: OSError."""
    write_json(folder / TRAINING_STATUS, {"updated_unix_s": at_unix_s, "jobs": [dict(job) for job in jobs]})


def write_json(path: Path, body: object, *, replace: Replace = os.replace) -> None:
    """A reader sees what was there or all of the new. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(orjson.dumps(body, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
