"""The record of a running `headroom up`: one file below the home, so that `headroom down` finds it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from serve_app.ops.local_cluster import RUN_VARIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """`pid` and `started_s` name the process for certain; `address` is the HTTP address it serves."""

    run_id: str
    pid: int
    started_s: float
    address: str


def _path(home: Path) -> Path:
    return home / "run" / "up.json"


def write_record(home: Path, record: RunRecord) -> None:
    path = _path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(record)))
    draft.replace(path)


def read_record(home: Path) -> RunRecord | None:
    """None when nothing was started, or the file is not ours to understand."""
    try:
        return RunRecord(**json.loads(_path(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def drop_record(home: Path) -> None:
    _path(home).unlink(missing_ok=True)


def is_alive(record: RunRecord) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(record.pid).create_time() == record.started_s
    return False


def left_over(run_id: str) -> list[psutil.Process]:
    """Every process that still carries the mark of this run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN_VARIABLE) == run_id:
                found.append(process)
    return found
