"""Whether the goals a plan claims to have reached are those it reached, and their bounds such that it could.

States names, directions and weights a second time. What a heuristic measure is (stranded bytes, unevenness, order,
what ran before) is not measured again, only held against its bound.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from placement.demand import Demand
from placement.inventory import Device, Inventory
from placement.plan import GoalReached, Placement, Plan

MORE = ("running replicas served at priority N", "served at priority N", "replicas served at priority N")
FEWER = (
    "bytes offloaded at priority N",
    "replicas that share a device with another of their model",
    "cost of ailing devices and slow links",
    "devices in use",
    "replicas that share a node with another of their model",
    "stranded bytes",
    "unevenness",
    "order of devices",
)
DIRECTIONS = dict.fromkeys((*MORE, "replicas left in place"), 1) | dict.fromkeys(FEWER, -1)


def wrong_goals(plan: Plan, inventory: Inventory, demands: Sequence[Demand]) -> list[str]:
    """What is wrong with goals and gap, in words; empty when nothing is."""
    if plan.gap is not None and not 0.0 <= plan.gap < float("inf"):
        return [f"the gap is {plan.gap}"]
    if not plan.goals:
        return []
    names = [goal.name for goal in plan.goals]
    wrong = [f"goal '{name}' is given twice" for name, times in Counter(names).items() if times > 1]
    wrong += [f"no goal says what is served at priority {p}" for p in _unsaid(names, demands)]
    wrong += [word for goal in plan.goals if (word := _wrong_goal(goal, plan, inventory, demands))]
    first = next((goal for goal in plan.goals if goal.value != goal.bound), None)
    gap = abs(first.value - first.bound) / max(1, abs(first.value)) if first else 0.0
    return wrong if plan.gap == gap else [*wrong, f"the gap is {plan.gap}, the goals say {gap}"]


def _unsaid(names: Sequence[str], demands: Sequence[Demand]) -> list[int]:
    return sorted({demand.priority for demand in demands if f"served at priority {demand.priority}" not in names})


def _wrong_goal(goal: GoalReached, plan: Plan, inventory: Inventory, demands: Sequence[Demand]) -> str:
    found = re.fullmatch(r"(.* at priority )(-?\d+)", goal.name)
    name, priority = (f"{found[1]}N", int(found[2])) if found else (goal.name, 0)
    if name not in DIRECTIONS:
        return f"'{goal.name}' is no goal"
    if (goal.bound - goal.value) * DIRECTIONS[name] < 0:
        return f"'{goal.name}' is {goal.value}, beyond its bound {goal.bound}"
    if name == "cost of ailing devices and slow links":
        known = {device.id: device for node in inventory.nodes for device in node.devices}
        counted: int | None = sum(_cost_of_set(placement, known) for placement in plan.placements)
    else:
        counted = _count(name, plan.placements, demands, priority)
    if counted is not None and counted != goal.value:
        return f"'{goal.name}' is said to be {goal.value} and is {counted}"
    return ""


def _count(name: str, placements: Sequence[Placement], demands: Sequence[Demand], priority: int) -> int | None:
    level = {demand.model: demand for demand in demands if demand.priority == priority}
    here = [placement for placement in placements if placement.model in level]
    match name:
        case "served at priority N":
            counts = _what_one_counts(list(level.values()))
            return sum(counts[placement.model] for placement in here)
        case "replicas served at priority N":
            return len(here)
        case "bytes offloaded at priority N":
            return sum(placement.offload_bytes * len(placement.devices) for placement in here)
        case "devices in use":
            return len({device for placement in placements for device in placement.devices})
        case "replicas that share a device with another of their model":
            places = Counter((p.model, device) for p in placements for device in p.devices)
            return sum(times - 1 for times in places.values())
        case "replicas that share a node with another of their model":
            return sum(times - 1 for times in Counter((p.model, p.node) for p in placements).values())
        case _:
            return None


def _cost_of_set(placement: Placement, known: Mapping[str, Device]) -> int:
    """1000 for a device that is not healthy, its risk in thousandths from 100 on, 10 for each pair without NVLink and
    1 for each on two NUMA nodes. Devices that are not there cost nothing: that is said elsewhere."""
    devices = [known[name] for name in placement.devices if name in known]
    alone = sum(1000 * (device.health.value != "healthy") for device in devices)
    alone += sum(device.risk_permille for device in devices if device.risk_permille >= 100)
    pairs = list(combinations(devices, 2))
    unlinked = sum(a.id not in b.nvlink_peers and b.id not in a.nvlink_peers for a, b in pairs)
    return alone + 10 * unlinked + sum(a.numa_node != b.numa_node for a, b in pairs)


def _what_one_counts(level: Sequence[Demand]) -> dict[str, int]:
    """By model: its share of the requests/s in thousandths; without a rate the mean of those with one, or 1."""
    rated = {
        demand.model: max(1, int(demand.requests_per_s * 1000 / demand.num_replicas))
        for demand in level
        if demand.requests_per_s > 0 and demand.num_replicas > 0
    }
    replicas = sum(demand.num_replicas for demand in level if demand.model in rated)
    together = sum(rated[demand.model] * demand.num_replicas for demand in level if demand.model in rated)
    mean = together // replicas if replicas else 1
    return {demand.model: rated.get(demand.model, mean) for demand in level}
