"""Estimate against measurement, one table per model and type of device."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from placement.measured_parts import MeasuredPart
from placement.units import gib
from serve_app.fleet.model_comparison import Compared


def draw_comparison(console: Console, entries: tuple[Compared, ...]) -> None:
    for number, entry in enumerate(entries):
        if number:
            console.print()
        console.print(_headline(entry))
        if entry.parts:
            console.print(_table(entry.parts))
    if not any(entry.measured for entry in entries):
        console.print()
        console.print("Nothing was measured yet: an engine's first start measures it, e.g. by `headroom up`.")


def _headline(entry: Compared) -> Text:
    line = Text.assemble((entry.model, "bold"), f"  {entry.kind.value}")
    if entry.problem:
        return line.append(f"  {entry.problem}", style="red")
    if entry.measured is None:
        assert entry.estimate is not None
        line.append(f"  not measured yet; estimated {gib(entry.estimate.rest_bytes, decimals=2)} at rest")
        return line.append(f", {gib(entry.estimate.peak_bytes, decimals=2)} while starting")
    where = f" on {entry.measured.device_type}" if entry.measured.device_type else ""
    return line.append(f"  measured {entry.measured.when} ({entry.measured.engine}){where}", style="dim")


def _table(parts: tuple[MeasuredPart, ...]) -> Table:
    table = Table("part", box=None, padding=(0, 2, 0, 2), show_edge=False)
    for heading in ("estimated", "", "measured", "", "error"):
        table.add_column(heading, justify="right")
    for part in parts:
        seen = part.measured_bytes
        measured = ("not looked at", "-") if seen is None else (f"{seen:,}", gib(seen, decimals=2))
        error = "-" if part.error_percent is None else f"{part.error_percent:+.1f} %"
        estimated = gib(part.estimated_bytes, decimals=2)
        table.add_row(part.name, f"{part.estimated_bytes:,}", estimated, *measured, error)
    return table
