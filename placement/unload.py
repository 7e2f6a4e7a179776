"""Which idle models go when room is short: the least precious that make room, and nobody more.

Everything else stays where it lies; nothing is moved and nothing new is offloaded. Whether they sleep or unload, and
how, is the shell's; here a model that goes gives back all but what it says it keeps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import NamedTuple

from placement.demand import Demand
from placement.errors import InvalidProblem
from placement.feasible import Load, need_of, slots
from placement.inventory import Inventory
from placement.plan import Placement
from placement.policy import Policy
from placement.problem import DeviceSet, Problem, pose
from placement.units import gib

IDLE_LIMIT_S = 600.0
"""Source: spec A7."""


class Spared(StrEnum):
    """Why a model that lies on the fleet does not go."""

    SAME_MODEL = "same_model"
    HIGHER_PRIORITY = "higher_priority"
    PINNED = "pinned"
    BUSY = "busy"
    """Asked for within the limit."""


SPARED_WORDS = {
    Spared.SAME_MODEL: "the same model",
    Spared.HIGHER_PRIORITY: "of a higher priority",
    Spared.PINNED: "pinned",
    Spared.BUSY: "not idle for long enough",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A model that lies on the fleet, and for how long nobody has asked for it: 0 while a request runs.

    `cpu_millis` and `host_memory_bytes` are what each replica takes of its node. Gone, a replica keeps `kept_bytes` on
    each of its devices (what an engine holds asleep) and `kept_host_bytes` of its host memory; 0 for an unload.
    """

    model: str
    priority: int
    idle_s: float
    placements: tuple[Placement, ...]
    pinned: bool = False
    cpu_millis: int = 0
    host_memory_bytes: int = 0
    kept_bytes: int = 0
    kept_host_bytes: int = 0

    @property
    def freed_bytes(self) -> int:
        """Bytes at rest that all its devices get back."""
        rests = ((place.estimate.rest_bytes, len(place.devices)) for place in self.placements)
        return sum((rest - min(rest, self.kept_bytes)) * num_devices for rest, num_devices in rests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unloading:
    """`models` go, in this order; none where there is room already."""

    models: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoUnloading:
    """There would be no room even with every model gone that may go; `spared` counts the others.

    `retry_after_s` is when models now too busy will have been idle for long enough, if nobody asks for them; None
    where waiting does not help.
    """

    model: str
    needed_bytes: int
    spared: tuple[tuple[Spared, int], ...]
    retry_after_s: float | None
    message: str


def unloads(
    inventory: Inventory,
    newcomer: Demand,
    lying: Sequence[Idle],
    policy: Policy,
    *,
    idle_limit_s: float = IDLE_LIMIT_S,
) -> Unloading | NoUnloading:
    """The models to put to sleep so that all replicas of `newcomer` fit beside what stays.

    `lying` are all models with replicas on the fleet, busy ones too. No model goes where less precious ones would do:
    a lower priority goes first, then the longer idle, then the one with fewer bytes; and nobody goes in vain.
    `newcomer.num_replicas` are those without a place; its `max_offload_bytes` are not counted on.
    Raises: InvalidProblem where the question contradicts itself.
    """
    _reject_bad(lying)
    fleet = _Fleet(pose(inventory, (newcomer,), policy), lying)
    order = _order(model for model in lying if _spared(model, newcomer, idle_limit_s) is None)
    if not fleet.takes_all(order):
        return _refuse(fleet, idle_limit_s)
    fewest = bisect_left(range(len(order)), True, key=lambda num: fleet.takes_all(order[:num]))
    going = fleet.without_needless(order[:fewest])
    return Unloading(
        models=tuple(model.model for model in going), freed_bytes=sum(model.freed_bytes for model in going)
    )


def _reject_bad(lying: Sequence[Idle]) -> None:
    for name, times in Counter(model.model for model in lying).items():
        if times > 1:
            raise InvalidProblem(f"model '{name}' is given more than once; name each of them once")
    for model in lying:
        if not model.idle_s >= 0:
            raise InvalidProblem(f"model '{model.model}' is idle for {model.idle_s} s; it must be 0 or more")
        if not (model.kept_bytes >= 0 and 0 <= model.kept_host_bytes <= model.host_memory_bytes):
            raise InvalidProblem(
                f"model '{model.model}' keeps {model.kept_bytes} bytes and {model.kept_host_bytes} of its "
                f"{model.host_memory_bytes} bytes of host memory; both must be at least 0, and no more than it has"
            )


def _order(models: Iterable[Idle]) -> list[Idle]:
    """The least precious first."""
    return sorted(models, key=lambda model: (model.priority, -model.idle_s, model.freed_bytes, model.model))


def _spared(model: Idle, newcomer: Demand, idle_limit_s: float) -> Spared | None:
    if model.model == newcomer.model:
        return Spared.SAME_MODEL
    if model.priority > newcomer.priority:
        return Spared.HIGHER_PRIORITY
    if model.pinned:
        return Spared.PINNED
    return None if model.idle_s >= idle_limit_s else Spared.BUSY


class _Fleet:
    """What lies on which node. `problem` asks for the newcomer alone."""

    def __init__(self, problem: Problem, lying: Sequence[Idle]) -> None:
        self.problem = problem
        self.lying = lying
        self.demand, self.need = problem.demands[0], problem.needs[0]
        self._on_node: list[list[_Seat]] = [[] for _ in problem.nodes]
        number_of = {device.id: number for number, device in enumerate(problem.devices)}
        for model in lying:
            for place in model.placements:
                numbers = [number_of[device] for device in place.devices if device in number_of]
                if numbers:
                    self._on_node[problem.node_of[numbers[0]]].append(_Seat(model, place, tuple(numbers)))

    def takes_all(self, gone: Iterable[Idle]) -> bool:
        """Whether all replicas of the newcomer fit once these models are gone."""
        names = {model.model for model in gone}
        return sum(self._num_on(node, names) for node in range(len(self._on_node))) >= self.demand.num_replicas

    def without_needless(self, going: Sequence[Idle]) -> list[Idle]:
        """Those of whom none could stay; asked from the last to the first."""
        names = {model.model for model in going}
        nums = [self._num_on(node, names) for node in range(len(self._on_node))]
        for model in reversed(going):
            nodes = {node for node, seats in enumerate(self._on_node) if any(seat.model is model for seat in seats)}
            others = {node: self._num_on(node, names - {model.model}) for node in nodes}
            if sum(nums) + sum(num - nums[node] for node, num in others.items()) >= self.demand.num_replicas:
                names.remove(model.model)
                nums = [others.get(node, num) for node, num in enumerate(nums)]
        return [model for model in going if model.model in names]

    def _num_on(self, node: int, gone: Collection[str]) -> int:
        beside = _Beside(self.problem, node)
        for seat in self._on_node[node]:
            beside.add(seat, is_gone=seat.model.model in gone)
        return beside.num_replicas()


class _Seat(NamedTuple):
    model: Idle
    place: Placement
    devices: DeviceSet


class _Beside:
    """Room for replicas of the newcomer on one node, beside what was added."""

    def __init__(self, problem: Problem, node: int) -> None:
        self.problem, self.node = problem, node
        self.demand, self.need = problem.demands[0], problem.needs[0]
        self.loads = defaultdict[int, Load](Load)
        self.cpu, self.host = problem.nodes[node].cpu_millis, problem.nodes[node].memory_bytes

    def add(self, seat: _Seat, *, is_gone: bool) -> None:
        model, need = seat.model, need_of(seat.place.estimate)
        left = Load(min(model.kept_bytes, need.rest_bytes)) if is_gone else need
        for number in seat.devices:
            self.loads[number] = self.loads[number].plus(left)
        self.cpu -= 0 if is_gone else model.cpu_millis
        offloaded = seat.place.offload_bytes * len(seat.place.devices)
        self.host -= model.kept_host_bytes if is_gone else model.host_memory_bytes + offloaded

    def num_replicas(self) -> int:
        """Most replicas that fit; those over several devices are not counted on devices that are the node's memory."""
        demand, allowed = self.demand, self.problem.allowed[0][self.node]
        hosts = self.problem.nodes[self.node].host_devices
        left = self.host - sum(self.loads[number].peak_bytes for number in hosts)
        num = _num_groups([self._num_places(n) for n in allowed if n not in hosts], demand.tensor_parallel)
        if demand.host_memory_bytes:
            num = min(num, max(0, left) // demand.host_memory_bytes)
        if demand.tensor_parallel == 1:
            left -= num * demand.host_memory_bytes
            num += sum(self._num_in_memory(number, left) for number in allowed if number in hosts)
        return min(num, max(0, self.cpu) // demand.cpu_millis) if demand.cpu_millis else num

    def _num_places(self, number: int) -> int:
        load = self.loads[number]
        budget = self.problem.budgets[number] - load.rest_bytes - max(0, load.start_bytes - self.need.start_bytes)
        return slots(budget, self.need, at_most=self.demand.num_replicas)

    def _num_in_memory(self, number: int, left: int) -> int:
        """Replicas on a device that is the node's memory, of which so many bytes are left."""
        each = Load(self.need.rest_bytes + self.demand.host_memory_bytes)
        left -= max(0, self.need.start_bytes - self.loads[number].start_bytes)
        return min(self._num_places(number), slots(left, each, at_most=self.demand.num_replicas))


def _num_groups(places: Sequence[int], size: int) -> int:
    """Most replicas on `size` different devices each, when device i can be in `places[i]` of them."""
    num = sum(places) // size
    while num and sum(min(place, num) for place in places) < num * size:
        num -= 1
    return num


def _refuse(fleet: _Fleet, idle_limit_s: float) -> NoUnloading:
    newcomer = fleet.demand
    causes = {model.model: _spared(model, newcomer, idle_limit_s) for model in fleet.lying}
    counts = Counter(cause for cause in causes.values() if cause is not None)
    spared = tuple((cause, counts[cause]) for cause in Spared if counts[cause])
    wait_s = _wait_s(fleet, idle_limit_s)
    return NoUnloading(
        model=newcomer.model,
        needed_bytes=fleet.need.peak_bytes,
        spared=spared,
        retry_after_s=wait_s,
        message=f"{_sentence(fleet, spared)} {_advice(fleet, wait_s)}",
    )


def _wait_s(fleet: _Fleet, idle_limit_s: float) -> float | None:
    """The shortest wait after which enough models have been idle for long enough."""
    idle = {model.model: _spared(model, fleet.demand, idle_limit_s) for model in fleet.lying}
    gone = [model for model in fleet.lying if idle[model.model] is None]
    busy = sorted((m for m in fleet.lying if idle[m.model] is Spared.BUSY), key=lambda m: -m.idle_s)
    enough = range(1, len(busy) + 1)
    first = bisect_left(enough, True, key=lambda num: fleet.takes_all([*gone, *busy[:num]]))
    return idle_limit_s - busy[first].idle_s if first < len(enough) else None


def _sentence(fleet: _Fleet, spared: Sequence[tuple[Spared, int]]) -> str:
    demand, num_gone = fleet.demand, len(fleet.lying) - sum(count for _, count in spared)
    whom = f"'{demand.model}'" if demand.num_replicas == 1 else f"{demand.num_replicas} replicas of '{demand.model}'"
    each = "on one device" if demand.tensor_parallel == 1 else f"on each of {demand.tensor_parallel} devices"
    counted = "".join(f", {count} {SPARED_WORDS[cause]}" for cause, count in spared)
    start = f"No room for {whom} even with every idle model gone: a replica needs {gib(fleet.need.peak_bytes)} {each}"
    return f"{start}; of {len(fleet.lying)} models that lie there {num_gone} could go{counted}."


def _advice(fleet: _Fleet, wait_s: float | None) -> str:
    if wait_s is not None:
        return f"Wait {ceil(wait_s)} s, until enough of them are idle."
    may_go = [m for m in fleet.lying if m.model != fleet.demand.model and m.priority <= fleet.demand.priority]
    pinned = [model.model for model in may_go if model.pinned]
    if pinned and fleet.takes_all(may_go):
        return f"Unpin '{_order(model for model in may_go if model.pinned)[0].model}', or others that are pinned."
    return "Ask for fewer or smaller replicas, raise its priority, or add a device."
