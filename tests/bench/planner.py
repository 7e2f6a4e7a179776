"""Time and gap of a plan from 8 to 1,000 devices, and how both grow.

    python -m tests.bench.planner [--json] [--seeds N]

Fresh plans, to pack and to spread, on fleets of 80 GiB devices (see `fleets.py`), a plan after the loss of a node, and
one question that is far too large: 10,000 models for 64 devices. Default policy, so a time limit of 2 s, which the
solver keeps by counting work and by this program's clock. Target: 64 devices x 200 replicas within 2 s with a gap of at
most 1 %, for each goal and seed. The plot (worst time of the seeds) goes to bench-results/planner.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from placement.check import verify
from placement.demand import Demand
from placement.inventory import Inventory
from placement.plan import Placement, Plan
from placement.policy import Goal, Policy
from placement.solver import solve
from tests.bench.fleets import fleet, without_node
from tests.bench.growth_plot import Series, growth_plot
from tests.bench.servers import REPOSITORY

Question = tuple[Inventory, list[Demand], Policy]

SIZES = ((8, 24, 8), (16, 50, 13), (32, 100, 25), (64, 200, 50), (128, 400, 50), (256, 800, 80), (1000, 3200, 100))
"""Devices, replicas, models."""
TARGET = (64, 2.0, 0.01)
"""Devices, seconds, gap."""
PLOT = REPOSITORY / "bench-results" / "planner.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`first_unproven` is the goal the gap is of; empty when all are proven."""

    case: str
    seed: int
    num_devices: int
    num_replicas: int
    num_placed: int
    devices_in_use: int
    solver: str
    gap: float | None
    first_unproven: str
    wall_s: float
    cpu_s: float
    is_sound: bool


def measure(case: str, seed: int, question: Question, running: Sequence[Placement] = ()) -> tuple[Row, Plan]:
    inventory, demands, _ = question
    start_s, cpu_s = time.perf_counter(), time.process_time()
    plan = solve(*question, running=running, elapsed_s=lambda: time.perf_counter() - start_s)
    wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
    unproven = next((goal for goal in plan.goals if goal.value != goal.bound), None)
    row = Row(
        case=case,
        seed=seed,
        num_devices=len(inventory.devices),
        num_replicas=sum(demand.num_replicas for demand in demands),
        num_placed=len(plan.placements),
        devices_in_use=len({device for placement in plan.placements for device in placement.devices}),
        solver=plan.solver,
        gap=plan.gap,
        first_unproven=f"{unproven.name}: {unproven.value} of {unproven.bound}" if unproven else "",
        wall_s=round(wall_s, 3),
        cpu_s=round(cpu_s, 3),
        is_sound=verify(plan, *question) == (),
    )
    return row, plan


def all_rows(num_seeds: int) -> list[Row]:
    rows = list[Row]()
    for goal in (Goal.PACK, Goal.SPREAD):
        for num_devices, num_replicas, num_models in SIZES:
            for seed in range(num_seeds if num_devices == TARGET[0] else 1):
                question = fleet(num_devices, num_replicas, num_models=num_models, goal=goal, seed=seed)
                row, plan = measure(f"fresh, {goal.value}", seed, question)
                rows.append(row)
                if goal is Goal.PACK and seed == 0 and num_devices > TARGET[0] // 2:
                    lost = (without_node(question[0], "node-0"), *question[1:])
                    rows.append(measure("a node lost", seed, lost, plan.placements)[0])
    crowd = fleet(64, 10_000, num_models=10_000, goal=Goal.PACK, seed=0)
    return [*rows, measure("10,000 models", 0, crowd)[0]]


def meets_target(rows: Sequence[Row]) -> bool:
    num_devices, most_s, most_gap = TARGET
    aimed_at = [row for row in rows if row.num_devices == num_devices and row.case.startswith("fresh")]
    return all(row.wall_s <= most_s and row.gap is not None and row.gap <= most_gap for row in aimed_at)


def table(rows: Sequence[Row]) -> str:
    head = (
        f"{'case':14} {'devices':>7} {'replicas':>8} {'placed':>6} {'in use':>6} {'wall s':>7} {'CPU s':>7} {'gap':>7}"
    )
    lines = [f"{head}  solver    first goal not proven"]
    for row in rows:
        counts = f"{row.num_devices:7} {row.num_replicas:8} {row.num_placed:6} {row.devices_in_use:6}"
        gap = "unknown" if row.gap is None else f"{row.gap:7.2%}"
        sound = "" if row.is_sound else "  UNSOUND"
        times = f"{row.wall_s:7.2f} {row.cpu_s:7.2f}"
        lines.append(f"{row.case:14} {counts} {times} {gap}  {row.solver:8}  {row.first_unproven}{sound}")
    met = f"{TARGET[2]:.0%} gap: {'met' if meets_target(rows) else 'missed'}"
    lines.append(f"target of {TARGET[0]} devices x 200 replicas, packed and spread: {TARGET[1]:g} s and {met}")
    return "\n".join(lines)


def plot(rows: Sequence[Row]) -> Path:
    """Worst wall time by devices, one line per goal."""
    series = [
        Series(
            name=goal.value,
            points=tuple(
                (num_devices, max(row.wall_s for row in rows if _is_fresh(row, goal, num_devices)))
                for num_devices, _, _ in SIZES
            ),
        )
        for goal in (Goal.PACK, Goal.SPREAD)
    ]
    PLOT.parent.mkdir(exist_ok=True)
    title = "plan time by devices, about three replicas each"
    growth_plot(series, title=title, x="devices", y="seconds").save(PLOT)
    return PLOT


def _is_fresh(row: Row, goal: Goal, num_devices: int) -> bool:
    return row.case == f"fresh, {goal.value}" and row.num_devices == num_devices


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="fleets of 64 devices")
    options = parser.parse_args()
    rows = all_rows(options.seeds)
    path = plot(rows).relative_to(REPOSITORY)
    if options.json:
        report = {"meets_target": meets_target(rows), "plot": str(path), "rows": [asdict(row) for row in rows]}
        print(json.dumps(report))
    else:
        print(table(rows))
        print(f"plot: {path}")


if __name__ == "__main__":
    main()
