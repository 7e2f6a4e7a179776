"""What would bring a refused replica back: real levers, each tried on the plan before it is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from math import ceil

from placement.demand import Demand, PartName
from placement.feasible import Load, fits, limit_bytes, load_of
from placement.inventory import DeviceKind
from placement.plan import Placement, RefusalKind
from placement.problem import Problem
from placement.units import GIB, gib

MAX_LEVERS = 3
SHARDED = frozenset({PartName.WEIGHTS, PartName.KV_CACHE})
"""The parts that tensor parallelism divides among the devices."""
MAX_TENSOR_PARALLEL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Levers:
    """`short_bytes`: least bytes by which one replica misses, per device; None where no shrinking helps."""

    demand: Demand
    kind: RefusalKind
    short_bytes: int | None

    @property
    def key(self) -> str:
        return self.demand.path or f"models['{self.demand.model}']"


def advise(problem: Problem, levers: Levers, loads: Sequence[Load], placements: Sequence[Placement]) -> str:
    """One sentence of up to three levers, or the empty string when none is known."""
    found = list(islice(_levers(problem, levers, loads, placements), MAX_LEVERS))
    sentence = ", or ".join(found)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _levers(problem: Problem, levers: Levers, loads: Sequence[Load], placements: Sequence[Placement]) -> Iterator[str]:
    yield from _shrink(levers)
    if levers.kind is RefusalKind.BLOCKED:
        yield from _unload(problem, levers, placements)
        yield from _return_devices(problem, levers, loads)
        yield from _end_holdings(problem, levers, loads)
    else:
        yield from _shard(problem, levers)
    yield from _add_device(problem, levers)


def _shrink(levers: Levers) -> Iterator[str]:
    kv_bytes, short = levers.demand.estimate.part_bytes(PartName.KV_CACHE), levers.short_bytes
    if short is not None and 0 < short < kv_bytes:
        lower = f"lower `{levers.key}.max_model_len` or `{levers.key}.max_num_seqs`"
        yield f"{lower}, or set `{levers.key}.kv_cache_bytes` to {kv_bytes - short} ({gib(kv_bytes - short)}) or less"


def _unload(problem: Problem, levers: Levers, placements: Sequence[Placement]) -> Iterator[str]:
    """The one placed model, or else the fewest from the lowest priority up, whose room would do."""
    priority = {demand.model: demand.priority for demand in problem.demands}
    freed = {model: _held_bytes(model, placements) for model in {p.model for p in placements} - {levers.demand.model}}
    order = sorted(freed, key=lambda model: (priority[model], freed[model], model))
    singles = ([model] for model in order)
    groups = accumulate(([model] for model in order), lambda group, more: group + more)
    for models in (*singles, *groups):
        if _fits_beside(problem, levers.demand, [p for p in placements if p.model not in models]):
            names = " and ".join(f"'{model}'" for model in models)
            yield f"unload {names} (frees {gib(sum(freed[model] for model in models))})"
            return


def _return_devices(problem: Problem, levers: Levers, loads: Sequence[Load]) -> Iterator[str]:
    usable = {number for numbers in problem.usable for number in numbers}
    for number, device in enumerate(problem.devices):
        if number in usable or levers.demand.tensor_parallel > 1:
            continue
        if fits(problem.budgets[number], loads[number], levers.demand.estimate):
            yield f"uncordon '{device.id}'" if device.cordoned else f"bring '{device.id}' back ({device.health.value})"
            return


def _end_holdings(problem: Problem, levers: Levers, loads: Sequence[Load]) -> Iterator[str]:
    for number in (number for numbers in problem.usable for number in numbers):
        device = problem.devices[number]
        limit = limit_bytes(device.total_bytes, problem.policy.headroom)
        if (
            device.holdings
            and levers.demand.tensor_parallel == 1
            and fits(limit, loads[number], levers.demand.estimate)
        ):
            largest = max(device.holdings, key=lambda holding: holding.num_bytes)
            yield f"end '{largest.holder}' on '{device.id}' (holds {gib(largest.num_bytes)})"
            return


def _shard(problem: Problem, levers: Levers) -> Iterator[str]:
    size = levers.demand.tensor_parallel * 2
    while size <= MAX_TENSOR_PARALLEL:
        peak = _sharded_peak(levers.demand, size // levers.demand.tensor_parallel)
        if any(_can_hold(problem, node, peak) >= size for node in {device.node for device in problem.devices}):
            yield f"set `{levers.key}.tensor_parallel` to {size}"
            return
        size *= 2


def _add_device(problem: Problem, levers: Levers) -> Iterator[str]:
    whole = ceil(levers.demand.estimate.peak_bytes / (1 - problem.policy.headroom))
    many = "a device" if levers.demand.tensor_parallel == 1 else f"a node of {levers.demand.tensor_parallel} devices"
    yield f"add {many} of at least {ceil(whole / GIB)} GiB"


def _sharded_peak(demand: Demand, ways: int) -> int:
    return sum(
        ceil(part.num_bytes / ways) if part.name in SHARDED else part.num_bytes for part in demand.estimate.parts
    )


def _can_hold(problem: Problem, node: str, peak_bytes: int) -> int:
    """GPUs of a node that could hold this peak when empty."""
    gpus = (device for device in problem.devices if device.node == node and device.kind is DeviceKind.CUDA)
    return sum(peak_bytes <= limit_bytes(gpu.total_bytes, problem.policy.headroom) for gpu in gpus)


def _fits_beside(problem: Problem, demand: Demand, placements: Sequence[Placement]) -> bool:
    loads = [load_of(p.estimate for p in placements if device.id in p.devices) for device in problem.devices]
    return any(
        sum(fits(problem.budgets[n], loads[n], demand.estimate) for n in usable) >= demand.tensor_parallel
        for usable in problem.usable
    )


def _held_bytes(model: str, placements: Sequence[Placement]) -> int:
    return sum(p.estimate.rest_bytes * len(p.devices) for p in placements if p.model == model)
