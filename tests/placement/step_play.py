"""Plays steps through with arithmetic of its own, and searches all orders of tiny cases: what the tests of steps trust.

Knows the values only, none of the code that makes steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations

from hypothesis import strategies as st

from placement.demand import Demand, Estimate
from placement.inventory import Device, Inventory, Node
from placement.moves import ActionKind
from placement.plan import Placement, Plan, Strategy
from placement.steps import Steps
from tests.placement.builders import estimate, gpu

Place = tuple[str, tuple[str, ...]]
"""A replica and its devices."""


@dataclass(frozen=True)
class Case:
    before: Plan
    after: Plan
    inventory: Inventory
    demands: tuple[Demand, ...]

    @property
    def kept(self) -> set[str]:
        """Models that run before and after."""
        return {p.model for p in self.before.placements} & {p.model for p in self.after.placements}


def plan_of(*placements: Placement, headroom: float = 0.0) -> Plan:
    return Plan(
        inventory_version=1, headroom=headroom, strategy=Strategy.MULTI_DEVICE, placements=placements, refusals=(),
        solver="by hand", gap=None,
    )  # fmt: skip


def put(replica: str, devices: str, whole: Estimate) -> Placement:
    """`put("m#0", "n/gpu-0", estimate(5))`; several devices are joined by "+"."""
    names = tuple(devices.split("+"))
    return Placement(
        replica=replica,
        model=replica.rpartition("#")[0],
        node=names[0].partition("/")[0],
        devices=names,
        estimate=whole,
        reason="by hand",
    )


class Broken(AssertionError):
    """A rule that steps break."""


def play(steps: Steps, case: Case) -> None:
    """Raises: Broken at the first moment that breaks a rule, whatever the order within a batch."""
    known = {(p.replica, p.devices): p for p in (*case.before.placements, *case.after.placements)}
    of_replica = {p.replica: p for p in (*case.before.placements, *case.after.placements)}
    running = [(p.replica, p.devices) for p in case.before.placements]
    for batch in steps.batches:
        starts = [(a.replica, a.devices) for a in batch if a.kind is ActionKind.START]
        stops = [(a.replica, a.devices) for a in batch if a.kind is ActionKind.STOP]
        busy = Counter(device for _, devices in starts for device in devices)
        if any(many > 1 for many in busy.values()):
            raise Broken(f"two starts on one device: {starts}")
        if any(device in busy for _, devices in stops for device in devices):
            raise Broken("a stop beside a start on one device")
        if any(stop not in running for stop in stops):
            raise Broken("a stop of what does not run")
        _check_room([*running, *starts], known, of_replica, case)
        allowed_to_end = {a.model for a in batch if a.interrupts}
        _check_service([place for place in running if place not in stops], running, case, allowed_to_end)
        running = [place for place in [*running, *starts] if place not in stops]
    if Counter(running) != Counter((p.replica, p.devices) for p in case.after.placements):
        raise Broken(f"ends in {sorted(running)}")


def _check_room(
    running: Sequence[Place], known: dict[Place, Placement], of_replica: dict[str, Placement], case: Case
) -> None:
    placed = [(devices, known.get((replica, devices), of_replica[replica])) for replica, devices in running]
    for device in case.inventory.devices:
        here = [placement.estimate for devices, placement in placed if device.id in devices]
        if here and not _fits(here, device, case.after.headroom):
            raise Broken(f"no headroom on {device.id}: {running}")
    asked = {demand.model: demand for demand in case.demands}
    for node in case.inventory.nodes:
        on_node = [asked[placement.model] for devices, placement in placed if devices[0].startswith(f"{node.name}/")]
        if sum(demand.cpu_millis for demand in on_node) > node.num_cpus * 1000:
            raise Broken(f"no cores on {node.name}")
        kept = node.host_memory_bytes * Fraction(str(case.after.headroom))
        if sum(demand.host_memory_bytes for demand in on_node) > node.host_memory_bytes - kept:
            raise Broken(f"no host memory on {node.name}")


def _check_service(left: Sequence[Place], running: Sequence[Place], case: Case, allowed_to_end: set[str]) -> None:
    served, serving = ({place[0].rpartition("#")[0] for place in places} for places in (left, running))
    ended = (serving - served) & case.kept
    if ended - allowed_to_end:
        raise Broken(f"service of {ended} ends unannounced")


def _fits(here: Iterable[Estimate], device: Device, headroom: float) -> bool:
    parts = [[(part.num_bytes, part.only_while_starting) for part in whole.parts] for whole in here]
    rest = sum(size for of_one in parts for size, starting in of_one if not starting)
    start = max((sum(size for size, starting in of_one if starting) for of_one in parts), default=0)
    held = sum(holding.num_bytes for holding in device.holdings)
    return rest + start + held <= device.total_bytes * (1 - Fraction(str(headroom)))


def uninterrupted_order_exists(case: Case) -> bool:
    """All orders of all single starts and stops, with any places in between, tried one after the other."""
    before, after = ({p.replica: p for p in plan.placements} for plan in (case.before, case.after))
    first = frozenset((p.replica, p.devices) for p in before.values())
    last = frozenset((p.replica, p.devices) for p in after.values())
    seen, waiting = {first}, [first]
    while waiting:
        here = waiting.pop()
        if here == last:
            return True
        for then in _neighbours(here, before, after, case):
            if then not in seen:
                seen.add(then)
                waiting.append(then)
    return False


def _neighbours(
    here: frozenset[Place], before: dict[str, Placement], after: dict[str, Placement], case: Case
) -> Iterator[frozenset[Place]]:
    known = {(p.replica, p.devices): p for p in (*before.values(), *after.values())}
    changes = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    for replica in changes:
        mine = [place for place in here if place[0] == replica]
        model = replica.rpartition("#")[0]
        for place in mine:
            left = here - {place}
            if model not in case.kept or any(other[0].rpartition("#")[0] == model for other in left):
                yield left
        if replica in after and len(mine) < 2:
            for devices in _sets(case.inventory, len(after[replica].devices)):
                then = here | {(replica, devices)}
                if then != here and _is_sound(then, known, after, case):
                    yield then


def _is_sound(then: frozenset[Place], known: dict[Place, Placement], after: dict[str, Placement], case: Case) -> bool:
    of_replica = {p.replica: p for p in (*case.before.placements, *after.values())}
    try:
        _check_room([*then], known, of_replica, case)
    except Broken:
        return False
    return True


def _sets(inventory: Inventory, size: int) -> Iterator[tuple[str, ...]]:
    for node in inventory.nodes:
        yield from combinations([device.id for device in node.devices], size)


@st.composite
def cases(
    draw: st.DrawFn, *, max_models: int = 4, min_devices: int = 2, max_devices: int = 3, max_tensor_parallel: int = 2
) -> Case:
    """Two crowded plans for one fleet, half of the time one the other with its devices exchanged.

    Every replica is at a drawn place where it fits, and left out where it does not.
    """
    sizes = draw(st.lists(st.sampled_from([10, 12, 10, 15, 20]), min_size=min_devices, max_size=max_devices))
    cut = draw(st.sampled_from([len(sizes), len(sizes), len(sizes) - 1]))
    nodes = tuple(draw(_nodes(name, part)) for name, part in (("n", sizes[:cut]), ("x", sizes[cut:])) if part)
    inventory = Inventory(version=1, nodes=nodes)
    names = [f"m{number}" for number in range(draw(st.integers(2, max_models)))]
    demands = tuple(draw(_demands(name, max_tensor_parallel)) for name in names)
    headroom = draw(st.sampled_from([0.0, 0.2]))
    before = draw(_plans(inventory, demands, headroom))
    after = draw(st.one_of(_plans(inventory, demands, headroom), _turned(before, inventory, demands)))
    return Case(before, after, inventory, demands)


@st.composite
def _turned(draw: st.DrawFn, before: Plan, inventory: Inventory, demands: tuple[Demand, ...]) -> Plan:
    now_at = dict[str, str]()
    for node in inventory.nodes:
        names = [device.id for device in node.devices]
        now_at |= dict(zip(names, draw(st.permutations(names[::-1])), strict=True))
    placed = list[Placement]()
    for placement in before.placements:
        one = replace(placement, devices=tuple(sorted(now_at[device] for device in placement.devices)))
        if _stands(Case(plan_of(), plan_of(*placed, one, headroom=before.headroom), inventory, demands)):
            placed.append(one)
    return plan_of(*placed, headroom=before.headroom)


@st.composite
def _nodes(draw: st.DrawFn, name: str, sizes: Sequence[int]) -> Node:
    return Node(
        name=name,
        num_cpus=draw(st.sampled_from([4, 16])),
        host_memory_bytes=draw(st.sampled_from([8, 100])),
        devices=tuple(gpu(name, index, size) for index, size in enumerate(sizes)),
    )


@st.composite
def _demands(draw: st.DrawFn, model: str, max_tensor_parallel: int) -> Demand:
    return Demand(
        model=model,
        num_replicas=draw(st.sampled_from([1, 1, 2])),
        priority=draw(st.integers(0, 2)),
        estimate=estimate(draw(st.sampled_from([6, 7, 8, 5, 4, 3, 2, 1])), loading=draw(st.sampled_from([0, 0, 1, 3]))),
        tensor_parallel=min(max_tensor_parallel, draw(st.sampled_from([1, 1, 1, 2]))),
        cpu_millis=draw(st.sampled_from([0, 0, 1500])),
        host_memory_bytes=draw(st.sampled_from([0, 0, 3])),
    )


@st.composite
def _plans(draw: st.DrawFn, inventory: Inventory, demands: tuple[Demand, ...], headroom: float) -> Plan:
    placed = list[Placement]()
    for demand in demands:
        for number in range(demand.num_replicas):
            options = [*_sets(inventory, demand.tensor_parallel)]
            if not options:
                continue
            devices = draw(st.sampled_from(options))
            one = put(f"{demand.model}#{number}", "+".join(devices), demand.estimate)
            whole = Case(plan_of(), plan_of(*placed, one, headroom=headroom), inventory, demands)
            if _stands(whole):
                placed.append(one)
    return plan_of(*placed, headroom=headroom)


def _stands(case: Case) -> bool:
    known = {(p.replica, p.devices): p for p in case.after.placements}
    of_replica = {p.replica: p for p in case.after.placements}
    try:
        _check_room([*known], known, of_replica, case)
    except Broken:
        return False
    return True
