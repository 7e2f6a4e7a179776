"""The scheduled tests of what serves, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_SHOWN_CELLS = 3


def draw_live_tests(console: Console, tests: Mapping[str, Mapping[str, Any]]) -> None:
    titles = ("LIVE TEST", "WEIGHTS", "ASKED AT", "ACCURACY", "CALIBRATION ERROR", "MENDED ITSELF", "TO LEARN", "")
    table = Table(*titles, box=None, pad_edge=False)
    for model, test in tests.items():
        table.add_row(
            model,
            test["weights_version"],
            test["asked_at"],
            f"{test['accuracy']:.1%} ({test['low']:.0%}–{test['high']:.0%}) of {test['num_asked']}",
            _calibration(test["calibration"]),
            f"{test['correction']['num_corrected']} of {test['correction']['num_retried']}",
            _feedback(test["feedback"]),
            "REGRESSION" if test["is_regression"] else "ok",
        )
    console.print(table)


def _calibration(found: Mapping[str, Any] | None) -> str:
    if found is None or not found["num_measured"]:
        return "–"
    return f"{found['raw_error']:.3f} ({found['calibrated_error']:.3f} at temperature {found['temperature']:.2f})"


def _feedback(found: Mapping[str, Any]) -> str:
    """How many answers were wrong, and the tasks that the next job sees most often above their usual share."""
    cells = [cell for cell in found["weights"][:_SHOWN_CELLS] if cell["weight"] > 1]
    most = ", ".join(f"{cell['kind']}/{cell['difficulty']} ×{cell['weight']:.1f}" for cell in cells)
    return f"{found['num_failed']} wrong: {most}" if most else f"{found['num_failed']} wrong"
