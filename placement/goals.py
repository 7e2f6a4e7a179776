"""What a solve is after: the names of its goals, in their order, and what a replica counts when priorities are served.

The names stand in `Plan.goals`. `check.py` must not import this; it states names and weights a second time.
"""

from __future__ import annotations

from collections.abc import Sequence

from placement.demand import Demand
from placement.plan import GoalReached

RUNNING = "running replicas served at priority {}"
"""More is better, weighted as in `SERVED`."""
SERVED = "served at priority {}"
"""More is better: replicas, or thousandths of a request/s where a demand of this priority says its rate."""
REPLICAS = "replicas served at priority {}"
"""More is better; only where `SERVED` counts requests/s."""
OFFLOADED = "bytes offloaded at priority {}"
"""Fewer are better, over all devices of a replica."""
STAYING = "replicas left in place"
"""More is better."""
TOGETHER = "replicas that share a device with another of their model"
"""Fewer are better; of those on one device, all but one count."""
SET_COST = "cost of ailing devices and slow links"
"""Less is better: `set_cost` over all replicas. A device at risk is an ailing one."""
DEVICES = "devices in use"
"""Fewer are better; only to pack."""
SAME_NODE = "replicas that share a node with another of their model"
"""Fewer are better; of those on one node, all but one count."""
STRANDED = "stranded bytes"
"""Fewer are better: free room, above headroom, of devices in use that no demanded replica fits into any more."""
UNEVENNESS = "unevenness"
"""Less is better: squared fill at the peak, in thousandths of the device, over all devices."""
ORDER = "order of devices"
"""Less is better: device numbers, weighted so that larger replicas take the first."""

MILLI = 1000


def weights_of(demands: Sequence[Demand]) -> tuple[int, ...]:
    """What one replica of each demand counts among those of its priority.

    Where no demand of a priority says its rate, every replica counts 1. Where one does, a replica counts its share of
    its demand's requests/s, in thousandths, at least 1; a replica without a rate counts as much as the mean replica
    with one, rounded down, so that what is unknown is neither favoured nor starved.
    """
    rated: dict[int, list[Demand]] = {}
    for demand in demands:
        rated.setdefault(demand.priority, []).extend([demand] if _own_weight(demand) else [])
    means = {priority: _mean_weight(of_priority) for priority, of_priority in rated.items()}
    return tuple(_own_weight(demand) or means[demand.priority] for demand in demands)


def gap_of(goals: Sequence[GoalReached]) -> float:
    """Distance to the bound of the first goal that is not proven best, as a fraction of its value."""
    first = next((goal for goal in goals if goal.value != goal.bound), None)
    return abs(first.bound - first.value) / max(1, abs(first.value)) if first else 0.0


def _own_weight(demand: Demand) -> int:
    """0 without a rate."""
    if demand.requests_per_s <= 0 or demand.num_replicas == 0:
        return 0
    return max(1, int(demand.requests_per_s * MILLI / demand.num_replicas))


def _mean_weight(rated: Sequence[Demand]) -> int:
    """1 where no demand has a rate."""
    replicas = sum(demand.num_replicas for demand in rated)
    return sum(_own_weight(demand) * demand.num_replicas for demand in rated) // replicas if replicas else 1
