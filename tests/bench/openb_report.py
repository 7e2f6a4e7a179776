"""Figures of the openb experiment as a table, or as one line of JSON; the published ones beside them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from tests.bench.openb_run import Run
from tests.bench.openb_trace import BadTrace

Rows = Mapping[str, tuple[Run, ...]]
"""Runs by placer, one per seed."""

Published = Mapping[str, tuple[float, float]]
"""Allocated percent at 100 % and 130 % arrived, by placer."""

_PUBLISHED_NAMES = {"fgd": "FGD", "bestfit": "BestFit"}
_PREFIX = "openb_pod_list_"


def as_json(rows: Rows, *, ours: str) -> str:
    """One line: means over the seeds, and what a decision of ours costs."""
    results = {
        name: {
            "alloc_pct_at_100": round(statistics.fmean(run.alloc_pct_at_100 for run in runs), 3),
            "alloc_pct_at_130": round(statistics.fmean(run.alloc_pct_at_130 for run in runs), 3),
        }
        for name, runs in rows.items()
    }
    return json.dumps({"results": results, "ms_per_decision": round(_ms(rows[ours]), 4)})


def as_table(rows: Rows, published: Published, *, title: str) -> str:
    """Means over the seeds, the least and the most at 100 %, and the published figures where there are any."""
    lines = [
        f"{title}; allocated percent of all devices, mean of {len(next(iter(rows.values())))} seed(s)",
        f"{'':16}{'at 100 %':>10}{'(least - most)':>18}{'at 130 %':>10}{'ms/decision':>13}{'published':>19}",
    ]
    for name, runs in rows.items():
        at_100 = [run.alloc_pct_at_100 for run in runs]
        at_130 = statistics.fmean(run.alloc_pct_at_130 for run in runs)
        beside = "{:.2f} / {:.2f}".format(*published[name]) if name in published else "-"
        spread = f"({min(at_100):.2f} - {max(at_100):.2f})"
        lines.append(
            f"{name:16}{statistics.fmean(at_100):>10.2f}{spread:>18}{at_130:>10.2f}{_ms(runs):>13.3f}{beside:>19}"
        )
    return "\n".join([*lines, *_differences(rows)])


def published_rows(path: Path, pods: Path) -> Published:
    """The published figures of the variant that the pods file is named after, none where it is not one of them.

    Raises BadTrace.
    """
    try:
        variants = json.loads(path.read_text(encoding="utf-8"))["results"]
        figures = variants.get(pods.stem.removeprefix(_PREFIX), {})
        return {
            name: (float(figures[known]["alloc_pct_at_100"]), float(figures[known]["alloc_pct_at_130"]))
            for name, known in _PUBLISHED_NAMES.items()
            if known in figures
        }
    except OSError as fault:
        raise BadTrace(
            f"{path} cannot be read ({fault.strerror}); expected JSON with the published figures."
        ) from fault
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise BadTrace(
            f"{path} does not hold published figures; expected results.<variant>.FGD.alloc_pct_at_100."
        ) from fault


def _differences(rows: Rows) -> list[str]:
    """Ours against each of the others, by the mean at 100 %."""
    means = {name: statistics.fmean(run.alloc_pct_at_100 for run in runs) for name, runs in rows.items()}
    ours, *others = means
    return [f"{ours} against {name}: {means[ours] - means[name]:+.2f} points at 100 %" for name in others]


def _ms(runs: tuple[Run, ...]) -> float:
    return statistics.fmean(run.ms_per_decision for run in runs)
