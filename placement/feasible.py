"""Room on one device and beside it on its node: the arithmetic every placing decision stands on.

The rule (spec A2): bytes at rest of all shares + the largest single (peak - rest) of one start
<= floor(total * (1 - headroom)) - holdings. One start at a time per device, so only the largest
start counts, and any replica may have to start again, so all of them are candidates.
Beside its devices a replica takes cores and host memory of its node. Where a device *is* the host's memory, both
come out of one: what lies on such a device at its peak counts against the node's memory too.

Knows nothing of options, priorities or goals. The verifier (`check.py`) must not import this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, reduce

from placement.demand import Demand, Estimate, PartName
from placement.inventory import Device, DeviceHealth, DeviceKind, Node

TAKES_SHARES = frozenset({DeviceHealth.HEALTHY, DeviceHealth.DEGRADED, DeviceHealth.THROTTLED})


@dataclass(frozen=True, slots=True)
class Load:
    """What shares on one device need: `rest_bytes` always, `start_bytes` more while one of them starts.

    One replica's need is a load too; adding it to a device's load is `plus`.
    """

    rest_bytes: int = 0
    start_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        return self.rest_bytes + self.start_bytes

    def plus(self, other: Load) -> Load:
        return Load(self.rest_bytes + other.rest_bytes, max(self.start_bytes, other.start_bytes))

    def without(self, offload_bytes: int) -> Load:
        """The same share with some of its weights in host memory: a start needs as much more as before."""
        return Load(self.rest_bytes - offload_bytes, self.start_bytes) if offload_bytes else self


EMPTY = Load()


def need_of(estimate: Estimate) -> Load:
    """What one replica needs on each of its devices."""
    return Load(estimate.rest_bytes, estimate.peak_bytes - estimate.rest_bytes)


def most_offload_bytes(demand: Demand) -> int:
    """Weights per device that may lie in host memory: never more than there are."""
    return min(demand.max_offload_bytes, demand.estimate.part_bytes(PartName.WEIGHTS))


def host_bytes_of(demand: Demand, offload_bytes: int) -> int:
    """Host memory one replica takes when it offloads so much on each of its devices."""
    return demand.host_memory_bytes + offload_bytes * demand.tensor_parallel


def sum_loads(loads: Iterable[Load]) -> Load:
    return reduce(Load.plus, loads, EMPTY)


def is_usable(device: Device) -> bool:
    """True where a share may lie at all; cordoned and unhealthy devices are emptied."""
    return not device.cordoned and device.health in TAKES_SHARES


@cache
def is_of_type(product: str, device_types: tuple[str, ...]) -> bool:
    """True if the product is one of the types, or none is named.

    A type is the product's whole name or whole words of it, whatever the case: `H100` is `NVIDIA H100 80GB HBM3`,
    `V100` is not `V100M32`. One entry may name several, joined by "|".
    """
    names = [name.strip() for entry in device_types for name in entry.split("|")]
    return not names or any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", product, re.IGNORECASE) for name in names)


def limit_bytes(total_bytes: int, headroom: float) -> int:
    """Bytes of a device below its headroom, rounded down; `headroom` is read as the decimal it is written as."""
    return int(total_bytes * (1 - Fraction(str(headroom))))


def budget_bytes(device: Device, headroom: float) -> int:
    """What shares may take together. Negative when holdings already eat into the headroom."""
    return limit_bytes(device.total_bytes, headroom) - sum(holding.num_bytes for holding in device.holdings)


def room_bytes(budget: int, load: Load, need: Load) -> int:
    """The largest peak this replica could have and still fit; it fits exactly if its `peak_bytes` is not above.

    A neighbour's larger start takes room at rest too, hence the second term.
    """
    return budget - load.rest_bytes - max(0, load.start_bytes - need.start_bytes)


def fits(budget: int, load: Load, need: Load) -> bool:
    return load.rest_bytes + need.rest_bytes + max(load.start_bytes, need.start_bytes) <= budget


def slots(budget: int, need: Load, *, at_most: int) -> int:
    """How many replicas like this one an empty device of this budget takes, counted up to `at_most`."""
    free = budget - need.start_bytes
    if free < need.rest_bytes:
        return 0
    return at_most if need.rest_bytes == 0 else min(at_most, free // need.rest_bytes)


def node_cpu_millis(node: Node) -> int:
    """Thousandths of a core that replicas may take together; no headroom is kept of them."""
    return max(0, node.num_cpus * 1000 - node.held_cpu_millis)


def node_memory_bytes(node: Node, headroom: float) -> int:
    """Host memory that replicas may take together, on a host device and beside any."""
    hosts = [device for device in node.devices if device.kind is DeviceKind.HOST]
    if hosts:
        return sum(max(0, budget_bytes(device, headroom)) for device in hosts)
    return max(0, limit_bytes(node.host_memory_bytes, headroom) - node.held_host_memory_bytes)
