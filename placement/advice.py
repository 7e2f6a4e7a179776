"""What would bring a refused replica back: real levers, each tried on the answer before it is named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, islice
from math import ceil

from placement.demand import PartName
from placement.feasible import fits, sum_loads
from placement.inventory import DeviceKind
from placement.missing import Missing
from placement.plan import RefusalKind
from placement.units import GIB, gib

MAX_LEVERS = 3
MAX_UNLOAD_CANDIDATES = 32
"""Models looked at for unloading, from the lowest priority up."""
SHARDED = frozenset({PartName.WEIGHTS, PartName.KV_CACHE})
"""The parts that tensor parallelism divides among the devices."""
MAX_TENSOR_PARALLEL = 8


def advise(missing: Missing, kind: RefusalKind) -> str:
    """One sentence of up to three levers, or the empty string when none is known."""
    sentence = ", or ".join(islice(_levers(missing, kind), MAX_LEVERS))
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _levers(missing: Missing, kind: RefusalKind) -> Iterator[str]:
    yield from _shrink(missing)
    if kind is RefusalKind.BLOCKED:
        yield from _unload(missing)
        yield from _return_device(missing)
        yield from _end_holding(missing)
    else:
        yield from _shard(missing)
    yield from _add_device(missing)


def _key(missing: Missing) -> str:
    return missing.demand.path or f"models['{missing.demand.model}']"


def _shrink(missing: Missing) -> Iterator[str]:
    kv_bytes, short = missing.demand.estimate.part_bytes(PartName.KV_CACHE), missing.short_bytes()
    if short is not None and 0 < short < kv_bytes:
        key, left = _key(missing), kv_bytes - short
        lower = f"lower `{key}.max_model_len` or `{key}.max_num_seqs`"
        yield f"{lower}, or set `{key}.kv_cache_bytes` to {left} ({gib(left)}) or less"


def _unload(missing: Missing) -> Iterator[str]:
    """The one placed model, or else the fewest from the lowest priority up, whose room would do."""
    demands = missing.problem.demands
    others = [i for i, sets in enumerate(missing.sets) if sets and i != missing.index]
    freed = {i: missing.problem.needs[i].rest_bytes * sum(map(len, missing.sets[i])) for i in others}
    order = sorted(others, key=lambda i: (demands[i].priority, freed[i], demands[i].model))[:MAX_UNLOAD_CANDIDATES]
    groups = accumulate(([index] for index in order), lambda group, more: group + more)
    for group in (*([index] for index in order), *groups):
        if _fits_without(missing, frozenset(group)):
            names = " and ".join(f"'{demands[index].model}'" for index in group)
            yield f"unload {names} (frees {gib(sum(freed[index] for index in group))})"
            return


def _fits_without(missing: Missing, group: frozenset[int]) -> bool:
    """Whether a replica fits on some node once the demands of `group` are gone."""
    touched = {number for index in group for devices in missing.sets[index] for number in devices}
    return any(
        sum(_fits_on(missing, number, group if number in touched else None) for number in usable)
        >= missing.demand.tensor_parallel
        for usable in missing.problem.usable
        if not touched.isdisjoint(usable)
    )


def _fits_on(missing: Missing, number: int, group: frozenset[int] | None) -> bool:
    if group is None:
        return missing.fits_on(number)
    others = (
        need
        for index, (need, sets) in enumerate(zip(missing.problem.needs, missing.sets, strict=True))
        if index not in group
        for devices in sets
        if number in devices
    )
    return fits(missing.problem.budgets[number], sum_loads(others), missing.need)


def _return_device(missing: Missing) -> Iterator[str]:
    usable = {number for numbers in missing.problem.usable for number in numbers}
    for number, device in enumerate(missing.problem.devices):
        if missing.demand.tensor_parallel == 1 and number not in usable and missing.fits_on(number):
            yield f"uncordon '{device.id}'" if device.cordoned else f"bring '{device.id}' back ({device.health.value})"
            return


def _end_holding(missing: Missing) -> Iterator[str]:
    for number in (number for numbers in missing.problem.usable for number in numbers):
        device = missing.problem.devices[number]
        free_of_holdings = fits(missing.limit_of(number), missing.loads[number], missing.need)
        if missing.demand.tensor_parallel == 1 and device.holdings and free_of_holdings:
            largest = max(device.holdings, key=lambda holding: holding.num_bytes)
            yield f"free what '{largest.holder}' holds on '{device.id}' ({gib(largest.num_bytes)})"
            return


def _shard(missing: Missing) -> Iterator[str]:
    size = missing.demand.tensor_parallel * 2
    while size <= MAX_TENSOR_PARALLEL:
        peak = _sharded_peak(missing, ways=size // missing.demand.tensor_parallel)
        if any(_num_gpus_for(missing, usable, peak) >= size for usable in missing.problem.usable):
            yield f"set `{_key(missing)}.tensor_parallel` to {size}"
            return
        size *= 2


def _sharded_peak(missing: Missing, *, ways: int) -> int:
    parts = missing.demand.estimate.parts
    return sum(ceil(part.num_bytes / ways) if part.name in SHARDED else part.num_bytes for part in parts)


def _num_gpus_for(missing: Missing, usable: tuple[int, ...], peak_bytes: int) -> int:
    """GPUs among these that could hold the peak when empty."""
    gpus = (number for number in usable if missing.problem.devices[number].kind is DeviceKind.CUDA)
    return sum(peak_bytes <= missing.limit_of(number) for number in gpus)


def _add_device(missing: Missing) -> Iterator[str]:
    whole = ceil(missing.need.peak_bytes / (1 - missing.problem.policy.headroom))
    size = missing.demand.tensor_parallel
    what = "a device" if size == 1 else f"a node of {size} devices"
    yield f"add {what} of at least {ceil(whole / GIB)} GiB{'' if size == 1 else ' each'}"
