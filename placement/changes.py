"""What differs between two plans: each replica with its copy of now and its copy of then, and what a start costs.

A copy is one engine of a replica at one place. Knows nothing of order: which copy starts or stops when is `order.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from placement.demand import Demand, PartName
from placement.errors import InvalidProblem
from placement.feasible import Load, host_bytes_of, need_of
from placement.inventory import DeviceHealth, Inventory
from placement.plan import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a start costs in seconds: `start_s` and the bytes of its weights at `load_bytes_per_s`.

    The defaults are the line through two load limits of spec B11, taken at the upper end of their class in 2-byte
    parameters: 2 GB (small, <1B) in 2.2 s and 20 GB (medium, <10B) in 5.5 s. The third limit (large, 16.5 s) is met up
    to 80 GB. They price the load of weights; what an engine needs besides is alike for all and belongs in `start_s`.
    """

    load_bytes_per_s: float = 18e9 / 3.3
    start_s: float = 2.2 - 2e9 * 3.3 / 18e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One engine at one place and what it takes there: `need` on each device, cores and host memory of its node."""

    placement: Placement
    need: Load
    cpu_millis: int
    host_bytes: int
    price_s: float

    @property
    def node(self) -> str:
        return self.placement.node

    @property
    def devices(self) -> tuple[str, ...]:
        return self.placement.devices

    @property
    def takes_of_node(self) -> bool:
        return self.cpu_millis > 0 or self.host_bytes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One replica that does not stay as it is. `old` runs now, `new` is wanted; one of them may be None.

    `lost` is where it ran until its device or node went away; nothing of it is left to stop.
    """

    replica: str
    model: str
    priority: int
    old: Copy | None
    new: Copy | None
    lost: Placement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`changes` from the highest priority down, then by name. `down` are the models that ran and lost every replica."""

    stays: tuple[Copy, ...]
    changes: tuple[Change, ...]
    down: frozenset[str]


def difference(
    before: Sequence[Placement],
    after: Sequence[Placement],
    inventory: Inventory,
    *,
    demands: Sequence[Demand],
    demands_before: Sequence[Demand],
    rates: Rates,
) -> Difference:
    """Raises: InvalidProblem for a placement that no demand describes."""
    present = {device.id for device in inventory.devices if device.health is not DeviceHealth.LOST}
    asked, asked_before = ({demand.model: demand for demand in each} for each in (demands, demands_before or demands))
    now = {placement.replica: placement for placement in before}
    then = {placement.replica: placement for placement in after}
    stays, changes = list[Copy](), list[Change]()
    for replica in sorted(now.keys() | then.keys(), key=lambda name: (len(name), name)):
        old, new = now.get(replica), then.get(replica)
        lost = old if old and not present.issuperset(old.devices) else None
        wanted = _copy(new, asked, rates) if new else None
        if old and wanted and not lost and goes_on(old, wanted.placement):
            stays.append(wanted)
            continue
        running = _copy(old, asked_before, rates) if old and not lost else None
        changes.append(_change(replica, running, wanted, lost, asked))
    down = _models(change.lost for change in changes)
    down -= {copy.placement.model for change in changes for copy in (change.old,) if copy}
    return Difference(
        stays=tuple(stays),
        changes=tuple(sorted(changes, key=lambda change: -change.priority)),
        down=frozenset(down - {copy.placement.model for copy in stays}),
    )


def goes_on(old: Placement, new: Placement) -> bool:
    """Whether the engine that runs is the one that is wanted: same devices, same KV cache, same offload.

    Other parts of an estimate are predictions: they may be corrected while the engine runs on.
    """
    kv = (placement.estimate.part_bytes(PartName.KV_CACHE) for placement in (old, new))
    return set(old.devices) == set(new.devices) and old.offload_bytes == new.offload_bytes and len(set(kv)) == 1


def load_bytes(placement: Placement) -> int:
    """Weights that a start reads, over all devices, those for the host's memory too."""
    return len(placement.devices) * (placement.estimate.part_bytes(PartName.WEIGHTS) + placement.offload_bytes)


def price_s(placement: Placement, rates: Rates) -> float:
    return rates.start_s + load_bytes(placement) / rates.load_bytes_per_s


def copy_of(placement: Placement, demand: Demand, rates: Rates) -> Copy:
    return Copy(
        placement=placement,
        need=need_of(placement.estimate),
        cpu_millis=demand.cpu_millis,
        host_bytes=host_bytes_of(demand, placement.offload_bytes),
        price_s=price_s(placement, rates),
    )


def _copy(placement: Placement, demands: Mapping[str, Demand], rates: Rates) -> Copy:
    demand = demands.get(placement.model)
    if demand is None:
        raise InvalidProblem(
            f"'{placement.replica}' is placed, but no demand says what '{placement.model}' takes of its node; "
            "give the demands of both plans"
        )
    return copy_of(placement, demand, rates)


def _change(
    replica: str, old: Copy | None, new: Copy | None, lost: Placement | None, asked: Mapping[str, Demand]
) -> Change:
    placement = new.placement if new else old.placement if old else lost
    assert placement is not None, "a change has an old or a new place"
    demand = asked.get(placement.model)
    priority = demand.priority if demand else min((d.priority for d in asked.values()), default=0) - 1
    return Change(replica=replica, model=placement.model, priority=priority, old=old, new=new, lost=lost)


def _models(placements: Iterator[Placement | None]) -> set[str]:
    return {placement.model for placement in placements if placement}
