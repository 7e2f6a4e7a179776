"""The fleet as tables: one per device, one row per holder."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from placement.units import gib, percent
from serve_app.api.wire import DeviceView, FleetView, HolderView
from serve_app.commands.screen import verdict


def draw_fleet(console: Console, view: FleetView) -> None:
    console.print(fleet_group(view))


def fleet_group(view: FleetView) -> Group:
    """All of it as one thing to draw, and to draw again in place."""
    strategy = [Text(f"strategy {view.strategy}")] if view.strategy else []
    parts = [part for device in view.devices for part in (_headline(device, view.headroom), _table(device))]
    return Group(*strategy, *parts)


def _headline(device: DeviceView, headroom: float) -> Text:
    cordoned = ", cordoned" if device.cordoned else ""
    line = Text.assemble((device.id, "bold"), f"  {device.product}  {device.health.value}{cordoned}\n")
    line.append(f"  total {gib(device.total_bytes)}, used {gib(device.used_bytes)}, free {gib(device.free_bytes)}")
    line.append(f" ({device.headroom_ratio * 100:.1f} %, headroom {percent(headroom)})  ")
    line.append_text(verdict(device.passes))
    signals = _signals(device)
    if signals:
        line.append(f"\n  {signals}")
    for reason in device.reasons:
        line.append(f"\n  {reason}", style="yellow")
    return line


def _signals(device: DeviceView) -> str:
    """What the last poll read, as far as the device tells it."""
    parts = []
    if device.temperature_c is not None:
        limit = f" of {device.slowdown_c:.0f}" if device.slowdown_c is not None else ""
        parts.append(f"{device.temperature_c:.0f}{limit} °C")
    if device.power_w is not None:
        limit = f" of {device.power_limit_w:.0f}" if device.power_limit_w is not None else ""
        parts.append(f"{device.power_w:.0f}{limit} W")
    if device.utilization is not None:
        parts.append(f"{device.utilization * 100:.0f} % busy")
    if device.forecast:
        parts.append(device.forecast)
    return ", ".join(parts)


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
