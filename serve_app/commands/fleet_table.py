"""The fleet as tables: one per device, one row per holder."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from placement.units import gib, percent
from serve_app.api.wire import DeviceView, FleetView, HolderView
from serve_app.commands.screen import verdict


def draw_fleet(console: Console, view: FleetView) -> None:
    for device in view.devices:
        console.print(_headline(device, view.headroom))
        console.print(_table(device))


def _headline(device: DeviceView, headroom: float) -> Text:
    line = Text.assemble((device.id, "bold"), f"  {device.product}  {device.health.value}\n")
    line.append(f"  total {gib(device.total_bytes)}, used {gib(device.used_bytes)}, free {gib(device.free_bytes)}")
    line.append(f" ({device.headroom_ratio * 100:.1f} %, headroom {percent(headroom)})  ")
    return line.append_text(verdict(device.passes))


def _table(device: DeviceView) -> Table:
    table = Table("holder", "kind", box=None, padding=(0, 2, 0, 2), show_edge=False)
    for heading in ("planned", "measured", "off by", "peak of start"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for holder in device.holders:
        table.add_row(*_row(holder))
    return table


def _row(holder: HolderView) -> tuple[str, ...]:
    planned = gib(holder.planned_bytes) if holder.planned_bytes else "-"
    measured = "unread" if holder.measured_bytes is None else gib(holder.measured_bytes)
    peak = gib(holder.peak_bytes) if holder.peak_bytes > holder.planned_bytes else "-"
    return (holder.name, holder.kind.value, planned, measured, _difference(holder), peak, holder.state or "-")


def _difference(holder: HolderView) -> str:
    if not holder.planned_bytes or holder.measured_bytes is None:
        return "-"
    return f"{(holder.measured_bytes / holder.planned_bytes - 1) * 100:+.1f} %"
