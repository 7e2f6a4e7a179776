"""How well the planner packs: bin packing instances whose fewest devices are known, against first-fit-decreasing.

    python -m tests.bench.packing [--json] [--quick] [--time-limit S]

Each item is a model, headroom and starts are 0, and `placement.solver.solve` is asked as anybody would ask it. The
optimum of a triplet instance is known by construction; of a uniform one where the devices used equal a bound:
Martello and Toth's L2, worked out here, or the bound the plan claims (the column says which). Target: the fewest
devices for every instance up to 120 items, at most one more above, each within the limit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from placement import goals
from placement.check import verify
from placement.plan import Plan
from placement.solver import solve
from tests.bench.fleets import Instance, as_question, first_fit_decreasing, lower_bound, triplets, uniform

TRIPLET_ITEMS, UNIFORM_ITEMS = (60, 120, 249, 501), (120, 250, 500, 1000)
EXACT_UP_TO = 120
TIME_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`least` is the best known lower bound and `known_by` where it comes from; `over` are devices above it."""

    instance: str
    seed: int
    num_items: int
    first_fit_decreasing: int
    devices: int
    least: int
    known_by: str
    over: int
    gap: float | None
    solver: str
    wall_s: float
    cpu_s: float
    is_sound: bool
    meets_target: bool


def instances(*, num_seeds: int) -> Iterator[tuple[int, Instance]]:
    for num_items in TRIPLET_ITEMS:
        yield from ((seed, triplets(num_items, seed=seed)) for seed in range(num_seeds))
    for num_items in UNIFORM_ITEMS:
        yield from ((seed, uniform(num_items, seed=seed)) for seed in range(num_seeds))


def measure(seed: int, instance: Instance, time_limit_s: float) -> Row:
    by_size = first_fit_decreasing(instance)
    question = as_question(instance, num_devices=by_size, time_limit_s=time_limit_s)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    plan = solve(*question)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    devices = len({device for placement in plan.placements for device in placement.devices})
    least, known_by = _least(instance, plan)
    num_items = len(instance.sizes)
    over = devices - least
    served = len(plan.placements) == num_items
    return Row(
        instance=instance.name,
        seed=seed,
        num_items=num_items,
        first_fit_decreasing=by_size,
        devices=devices,
        least=least,
        known_by=known_by,
        over=over,
        gap=plan.gap,
        solver=plan.solver,
        wall_s=round(wall_s, 3),
        cpu_s=round(cpu_s, 3),
        is_sound=verify(plan, *question) == (),
        meets_target=served and over <= (0 if num_items <= EXACT_UP_TO else 1) and wall_s <= time_limit_s,
    )


def _least(instance: Instance, plan: Plan) -> tuple[int, str]:
    if instance.optimum is not None:
        return instance.optimum, "construction"
    independent = lower_bound(instance)
    claimed = max((goal.bound for goal in plan.goals if goal.name == goals.DEVICES), default=0)
    return (independent, "L2") if independent >= claimed else (claimed, "plan's bound")


def table(rows: list[Row]) -> str:
    head = f"{'instance':14} {'seed':>4} {'FFD':>5} {'plan':>5} {'least':>6} {'over':>5} {'wall s':>7} {'CPU s':>7}"
    lines = [f"{head}  least known by  solver"]
    for row in rows:
        counts = f"{row.first_fit_decreasing:5} {row.devices:5} {row.least:6} {row.over:5}"
        mark = ("" if row.meets_target else "  misses the target") + ("" if row.is_sound else "  UNSOUND")
        times = f"{row.wall_s:7.2f} {row.cpu_s:7.2f}"
        lines.append(f"{row.instance:14} {row.seed:4} {counts} {times}  {row.known_by:14} {row.solver}{mark}")
    saved = sum(row.first_fit_decreasing - row.devices for row in rows)
    met = sum(row.meets_target for row in rows)
    optimal = sum(row.over == 0 for row in rows)
    lines.append(
        f"{met} of {len(rows)} within the target, {optimal} with the fewest devices; {saved} devices fewer than "
        f"first-fit-decreasing; longest {max(row.wall_s for row in rows):.1f} s"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="one instance of each size instead of three")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT_S, metavar="S")
    options = parser.parse_args()
    rows = [
        measure(seed, instance, options.time_limit) for seed, instance in instances(num_seeds=1 if options.quick else 3)
    ]
    if options.json:
        met = all(row.meets_target and row.is_sound for row in rows)
        print(json.dumps({"meets_target": met, "time_limit_s": options.time_limit, "rows": [asdict(r) for r in rows]}))
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
