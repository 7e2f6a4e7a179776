"""A plan as tables: one per device with every holder and byte, then each refusal with its sentence.

Devices without a model are one line each below those with one. Where the terminal is too narrow for a column per part
of an estimate, the parts stand on a line of their own below their replica.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from placement.demand import PartName
from placement.inventory import Inventory
from placement.plan import Plan
from placement.report import DeviceReport, Holder, Verdict, device_report
from placement.units import gib, percent
from serve_app.commands.screen import verdict

START, OFFLOADED = "while starting", "in host memory"
PARTS = (PartName.WEIGHTS, PartName.KV_CACHE, PartName.ACTIVATION, PartName.CUDA_GRAPHS, PartName.CONTEXT)
UNBOUNDED = 10_000
"""Columns to measure a table in; rich never measures more than it is given."""
MAX_IDLE_LINES = 16
"""Devices without a model that are shown one by one; the rest are counted."""


def draw_plan(console: Console, plan: Plan, inventory: Inventory) -> None:
    console.print(_headline(plan))
    reports = device_report(plan, inventory)
    busy = [report for report in reports if any(holder.holding_kind is None for holder in report.holders)]
    for report in busy or reports[:1]:
        _draw_device(console, report, plan.headroom)
    _draw_idle(console, [report for report in reports if report not in (busy or reports[:1])])
    for refusal in plan.refusals:
        console.print()
        console.print(Text.assemble(("refused", "bold red"), f" ({refusal.kind.value}) {refusal.message}"))


def _headline(plan: Plan) -> Text:
    placed, refused = len(plan.placements), sum(refusal.num_replicas for refusal in plan.refusals)
    proof = "" if plan.gap is None else ", proven best" if plan.gap == 0 else f", at most {plan.gap:.1%} from the best"
    return Text.assemble(
        ("strategy ", "dim"), (plan.strategy.value, "bold"), f"  {placed} placed, {refused} refused",
        (f"  headroom {percent(plan.headroom)}, solver {plan.solver}{proof}", "dim"),
    )  # fmt: skip


def _draw_device(console: Console, report: DeviceReport, headroom: float) -> None:
    console.print()
    console.print(_device_line(report))
    if report.holders:
        wide = _wide_table(report)
        fits = Measurement.get(console, console.options.update(max_width=UNBOUNDED), wide).maximum <= console.width
        console.print(wide if fits else _narrow_table(report))
    console.print(_peak_line(report, headroom))


def _device_line(report: DeviceReport) -> Text:
    line = Text.assemble((report.device, "bold"), f"  {report.product}  {_state(report)}")
    return line.append(f"\n  total {report.total_bytes:,} bytes ({gib(report.total_bytes)})")


def _state(report: DeviceReport) -> str:
    return "cordoned" if report.cordoned else report.health.value


def _wide_table(report: DeviceReport) -> Table:
    shown = _shown_parts(report)
    extras = [heading for heading in (START, OFFLOADED) if any(_extra(holder, heading) for holder in report.holders)]
    table = Table("holder", box=None, padding=(0, 2, 0, 2), show_edge=False)
    for heading in ("bytes at rest", "", *(_part_name(part) for part in shown), *extras):
        table.add_column(heading, justify="right", no_wrap=True)
    for holder in report.holders:
        held = {part.name: part.num_bytes for part in holder.parts}
        parts = (gib(held[part]) if part in held else "-" for part in shown)
        more = (_extra(holder, heading) or "-" for heading in extras)
        table.add_row(_name(holder), f"{holder.rest_bytes:,}", gib(holder.rest_bytes), *parts, *more)
    return table


def _extra(holder: Holder, heading: str) -> str:
    """What a holder takes beside its bytes at rest; empty when nothing."""
    num_bytes = holder.start_bytes if heading == START else holder.offload_bytes
    return f"{'+' if heading == START else ''}{gib(num_bytes)}" if num_bytes else ""


def _narrow_table(report: DeviceReport) -> Table:
    table = Table("holder", box=None, padding=(0, 2, 0, 2), show_edge=False)
    for heading in ("bytes at rest", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = _shown_parts(report)
    for holder in report.holders:
        parts = [f"{_part_name(part.name)} {gib(part.num_bytes)}" for part in holder.parts if part.name in shown]
        parts += [f"{_extra(holder, heading)} {heading}" for heading in (START, OFFLOADED) if _extra(holder, heading)]
        details = Text("\n  " + ", ".join(parts), style="dim") if parts else ""
        table.add_row(Text.assemble(_name(holder), details), f"{holder.rest_bytes:,}", gib(holder.rest_bytes))
    return table


def _shown_parts(report: DeviceReport) -> list[PartName]:
    """None where every share is a single part, which would only say its bytes at rest again."""
    if all(len(holder.parts) < 2 for holder in report.holders):
        return []
    return [part for part in PARTS if any(held.name is part for holder in report.holders for held in holder.parts)]


def _part_name(part: PartName) -> str:
    return part.value.replace("_", " ")


def _name(holder: Holder) -> str:
    return f"{holder.name} ({holder.holding_kind.value})" if holder.holding_kind else holder.name


def _peak_line(report: DeviceReport, headroom: float) -> Text:
    when = f"while {report.largest_start} starts" if report.largest_start else "at rest"
    line = Text(f"  peak {report.peak_bytes:,} bytes ({gib(report.peak_bytes)}) {when}; ")
    line.append(f"{gib(report.free_at_peak_bytes)} free then ({report.free_at_peak_ratio * 100:.1f} %, ")
    line.append(f"headroom {percent(headroom)} = {gib(report.total_bytes - report.limit_bytes)})  ")
    return line.append_text(verdict(report.verdict is Verdict.PASS))


def _draw_idle(console: Console, reports: Sequence[DeviceReport]) -> None:
    if not reports:
        return
    console.print()
    table = Table("without a model", box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("state", "total", "held"):
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    for report in reports[:MAX_IDLE_LINES]:
        table.add_row(report.device, report.product, _state(report), gib(report.total_bytes), gib(report.rest_bytes))
    console.print(table)
    if len(reports) > MAX_IDLE_LINES:
        console.print(Text(f"and {len(reports) - MAX_IDLE_LINES:,} more devices without a model"))
