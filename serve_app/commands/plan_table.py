"""A plan as tables: one per device with every holder and byte, then each refusal with its sentence."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from placement.demand import PartName
from placement.inventory import Inventory
from placement.plan import Plan
from placement.report import DeviceReport, Holder, Verdict, device_report
from placement.units import gib, percent
from serve_app.commands.screen import verdict

START = "while starting"
PARTS = (PartName.WEIGHTS, PartName.KV_CACHE, PartName.ACTIVATION, PartName.CUDA_GRAPHS, PartName.CONTEXT)


def draw_plan(console: Console, plan: Plan, inventory: Inventory) -> None:
    console.print(_headline(plan))
    for report in device_report(plan, inventory):
        console.print()
        console.print(_device_line(report))
        console.print(_table(report))
        console.print(_peak_line(report, plan.headroom))
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


def _device_line(report: DeviceReport) -> Text:
    state = "cordoned" if report.cordoned else report.health.value
    line = Text.assemble((report.device, "bold"), f"  {report.product}  {state}")
    return line.append(f"\n  total {report.total_bytes:,} bytes ({gib(report.total_bytes)})")


def _table(report: DeviceReport) -> Table:
    shown = _shown_parts(report)
    starts = [START] if any(holder.start_bytes for holder in report.holders) else []
    table = Table("holder", box=None, padding=(0, 2, 0, 2), show_edge=False)
    for heading in ("bytes at rest", "", *(part.value.replace("_", " ") for part in shown), *starts):
        table.add_column(heading, justify="right")
    for holder in report.holders:
        table.add_row(*_row(holder, shown)[: len(table.columns)])
    return table


def _shown_parts(report: DeviceReport) -> list[PartName]:
    """None where every share is a single part, which would only say its bytes at rest again."""
    if all(len(holder.parts) < 2 for holder in report.holders):
        return []
    return [part for part in PARTS if any(held.name is part for holder in report.holders for held in holder.parts)]


def _row(holder: Holder, shown: list[PartName]) -> tuple[str, ...]:
    held = {part.name: part.num_bytes for part in holder.parts}
    kind = f" ({holder.holding_kind.value})" if holder.holding_kind else ""
    parts = (gib(held[part]) if part in held else "-" for part in shown)
    start = f"+{gib(holder.start_bytes)}" if holder.start_bytes else "-"
    return (f"{holder.name}{kind}", f"{holder.rest_bytes:,}", gib(holder.rest_bytes), *parts, start)


def _peak_line(report: DeviceReport, headroom: float) -> Text:
    when = f"while {report.largest_start} starts" if report.largest_start else "at rest"
    line = Text(f"  peak {report.peak_bytes:,} bytes ({gib(report.peak_bytes)}) {when}; ")
    line.append(f"{gib(report.free_at_peak_bytes)} free then ({report.free_at_peak_ratio * 100:.1f} %, ")
    line.append(f"headroom {percent(headroom)} = {gib(report.total_bytes - report.limit_bytes)})  ")
    return line.append_text(verdict(report.verdict is Verdict.PASS))
