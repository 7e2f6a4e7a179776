"""The review of reinforcement settings as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def draw_review(console: Console, found: Mapping[str, Any]) -> None:
    table = Table("SETTING", "VALUE", "RUNS", "COLLAPSED", "MEAN GAIN", "LEAST", "MOST", "", box=None, pad_edge=False)
    for one in found["effects"]:
        table.add_row(
            one["setting"],
            f"{one['value']:g}",
            str(one["num_runs"]),
            str(one["num_collapsed"]),
            *(f"{100 * one[name]:+.1f}" for name in ("mean_gain", "least_gain", "most_gain")),
            "" if one["enough"] else "too few runs",
        )
    console.print(table)
    advice = ", ".join(f"{name} {value:g}" for name, value in found["advice"].items())
    console.print(f"Gains in points of accuracy, {found['num_runs']} runs in {found['days']} days.", highlight=False)
    console.print(f"Worth going on with: {advice}." if advice else "Too few runs to advise anything.", highlight=False)
