"""What the scheduled tests of a model found, as one value for people and other programs. Pure but for writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from serve_app.compare.json_file import write_json
from serve_app.compare.live_schedule import LiveRun
from serve_app.training.curriculum import Curriculum, Tally, weigh
from serve_app.training.evaluate import wilson_interval

FILE_NAME: Final = "live_tests.json"
FORMAT_VERSION: Final = 1


def run_json(run: LiveRun, *, is_regression: bool, tallies: Sequence[Tally]) -> dict[str, Any]:
    """The newest run of a model. `tallies` weigh on the data of the next job."""
    low, high = wilson_interval(sum(run.right), len(run.right))
    return {
        "asked_at": datetime.fromtimestamp(run.at_s, UTC).isoformat(timespec="seconds"),
        "weights_version": run.weights_version,
        "test_set": run.test_set,
        "num_right": sum(run.right),
        "num_asked": len(run.right),
        "accuracy": run.accuracy,
        "low": low,
        "high": high,
        "is_regression": is_regression,
        "calibration": None if run.calibration is None else asdict(run.calibration),
        "correction": {**asdict(run.correction), "corrected_share": run.correction.corrected_share},
        "feedback": {"num_failed": sum(tally.num_failed for tally in tallies), "weights": _weights(weigh(tallies))},
    }


def live_json(models: Mapping[str, Mapping[str, Any]], *, at_s: float) -> dict[str, Any]:
    """The whole file."""
    made_at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
    return {"format_version": FORMAT_VERSION, "made_at": made_at, "models": dict(models)}


def write_live_file(home: Path, content: Mapping[str, Any]) -> None:
    """Raises: OSError."""
    write_json(home / "status" / FILE_NAME, content)


def _weights(curriculum: Curriculum) -> list[dict[str, Any]]:
    """Heaviest first."""
    cells = sorted(curriculum.weights.items(), key=lambda cell: (-cell[1], cell[0]))
    return [{"kind": kind.value, "difficulty": level, "weight": weight} for (kind, level), weight in cells]
