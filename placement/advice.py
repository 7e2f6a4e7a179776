"""What would bring a refused replica back: real levers, each tried on the answer before it is named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, islice
from math import ceil

from placement.demand import PartName
from placement.feasible import fits
from placement.inventory import DeviceKind
from placement.missing import Missing
from placement.plan import RefusalKind
from placement.problem import DeviceSet
from placement.units import GIB, gib

MAX_LEVERS = 4
MAX_UNLOAD_CANDIDATES = 32
"""Models looked at for unloading, from the lowest priority up."""
SHARDED = frozenset({PartName.WEIGHTS, PartName.KV_CACHE})
"""The parts that tensor parallelism divides among the devices."""
MAX_TENSOR_PARALLEL = 8


def advise(missing: Missing, kind: RefusalKind) -> str:
    """One sentence of a few levers, or the empty string when none is known."""
    return _sentence(_levers(missing, kind))


def last_resort(missing: Missing) -> str:
    """The lever that needs no trying."""
    return _sentence(_add_device(missing))


def _sentence(levers: Iterator[str]) -> str:
    sentence = ", or ".join(islice(levers, MAX_LEVERS))
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _levers(missing: Missing, kind: RefusalKind) -> Iterator[str]:
    yield from _shrink(missing)
    yield from _ask_less_beside(missing)
    if kind is RefusalKind.BLOCKED:
        yield from _unload(missing)
        yield from _return_device(missing)
        yield from _end_holding(missing)
    else:
        yield from _shard(missing)
    yield from _other_type(missing)
    yield from _add_device(missing)
    yield from _offload(missing)


def _key(missing: Missing) -> str:
    return missing.demand.path or f"models['{missing.demand.model}']"


def _shrink(missing: Missing) -> Iterator[str]:
    kv_bytes, short = missing.demand.estimate.part_bytes(PartName.KV_CACHE), missing.short_bytes()
    if short is not None and 0 < short < kv_bytes:
        key, left = _key(missing), kv_bytes - short
        lower = f"lower `{key}.max_model_len` or `{key}.max_num_seqs`"
        yield f"{lower}, or set `{key}.kv_cache_bytes` to {left} ({gib(left)}) or less"


def _ask_less_beside(missing: Missing) -> Iterator[str]:
    """Cores or host memory, on the first node where they alone are missing."""
    demand, nodes = missing.demand, missing.problem.nodes
    for node, numbers in enumerate(missing.allowed):
        if sum(map(missing.fits_on, numbers)) < demand.tensor_parallel:
            continue
        left, (has_cpu, has_memory) = missing.book.left[node], missing.beside(numbers[0])
        if has_memory and not has_cpu:
            yield f"free {demand.cpu_millis - left.cpu_millis} thousandths of a core on '{nodes[node].name}'"
            return
        if has_cpu and not has_memory:
            short = missing.host_needed(numbers[0]) - left.host_bytes
            yield f"free {short} bytes ({gib(short)}) of host memory on '{nodes[node].name}'"
            return


def _unload(missing: Missing) -> Iterator[str]:
    """The one placed model, or else the fewest from the lowest priority up, whose room would do."""
    demands, sets = missing.problem.demands, missing.book.answer.sets
    order = [index for index in missing.book.unload_order(MAX_UNLOAD_CANDIDATES + 1) if index != missing.index]
    groups = accumulate(([index] for index in order[:MAX_UNLOAD_CANDIDATES]), lambda group, more: group + more)
    for group in (*([index] for index in order[:MAX_UNLOAD_CANDIDATES]), *groups):
        if _fits_without(missing, frozenset(group)):
            names = " and ".join(f"'{demands[index].model}'" for index in group)
            freed = sum(missing.problem.needs[index].rest_bytes * sum(map(len, sets[index])) for index in group)
            yield f"unload {names} (frees {gib(freed)})"
            return


def _fits_without(missing: Missing, group: frozenset[int]) -> bool:
    """Whether a replica fits on some node once the demands of `group` are gone."""
    node_of, sets = missing.problem.node_of, missing.book.answer.sets
    touched = {node_of[devices[0]] for index in group for devices in sets[index]}
    return any(missing.takes(missing.allowed[node], group) for node in sorted(touched) if missing.allowed[node])


def _return_device(missing: Missing) -> Iterator[str]:
    usable = {number for of_node in missing.problem.usable for number in of_node}
    for number in missing.problem.of_type[missing.index]:
        device = missing.problem.devices[number]
        if missing.demand.tensor_parallel == 1 and number not in usable and _fits_whole(missing, number):
            yield f"uncordon '{device.id}'" if device.cordoned else f"bring '{device.id}' back ({device.health.value})"
            return


def _fits_whole(missing: Missing, number: int) -> bool:
    return missing.fits_on(number) and all(missing.beside(number))


def _end_holding(missing: Missing) -> Iterator[str]:
    problem = missing.problem
    for number in (number for of_node in missing.allowed for number in of_node):
        device = problem.devices[number]
        alone = bool(device.holdings) and missing.demand.tensor_parallel == 1 and all(missing.beside(number))
        if alone and fits(problem.limits[number], missing.book.loads[number], missing.need):
            largest = max(device.holdings, key=lambda holding: holding.num_bytes)
            yield f"free what '{largest.holder}' holds on '{device.id}' ({gib(largest.num_bytes)})"
            return


def _shard(missing: Missing) -> Iterator[str]:
    size = missing.demand.tensor_parallel * 2
    while size <= MAX_TENSOR_PARALLEL:
        peak = _sharded_peak(missing, ways=size // missing.demand.tensor_parallel)
        if any(_num_gpus_for(missing, of_node, peak) >= size for of_node in missing.allowed):
            yield f"set `{_key(missing)}.tensor_parallel` to {size}"
            return
        size *= 2


def _sharded_peak(missing: Missing, *, ways: int) -> int:
    parts = missing.demand.estimate.parts
    return sum(ceil(part.num_bytes / ways) if part.name in SHARDED else part.num_bytes for part in parts)


def _num_gpus_for(missing: Missing, numbers: DeviceSet, peak_bytes: int) -> int:
    """GPUs among these that could hold the peak when empty; none where their node lacks cores or host memory."""
    if not numbers or not all(missing.beside(numbers[0])):
        return 0
    gpus = (number for number in numbers if missing.problem.devices[number].kind is DeviceKind.CUDA)
    return sum(peak_bytes <= missing.problem.limits[number] for number in gpus)


def _other_type(missing: Missing) -> Iterator[str]:
    """The first product outside the demand's types that has room now."""
    of_type = frozenset(missing.problem.of_type[missing.index])
    for of_node in missing.problem.usable if missing.demand.device_types else ():
        others = [number for number in of_node if number not in of_type]
        if others and missing.takes(others):
            product = missing.problem.devices[others[0]].product
            yield f"allow the device type '{product}' for `{_key(missing)}`"
            return


def _add_device(missing: Missing) -> Iterator[str]:
    demand = missing.demand
    whole = ceil(missing.need.peak_bytes / (1 - missing.problem.policy.headroom))
    each = f"of at least {ceil(whole / GIB)} GiB"
    if demand.tensor_parallel == 1 and not (demand.cpu_millis or demand.host_memory_bytes):
        yield f"add a device {each}{_typed(missing)}"
        return
    beside = [f"{demand.cpu_millis / 1000:g} cores"] if demand.cpu_millis else []
    beside += [f"{gib(demand.host_memory_bytes)} of host memory"] if demand.host_memory_bytes else []
    size = demand.tensor_parallel
    what = f"a node of {size} devices {each} each" if size > 1 else f"a node with a device {each}"
    free = f" and {' and '.join(beside)} free" if beside else ""
    yield f"add {what}{_typed(missing)}{free}"


def _typed(missing: Missing) -> str:
    types = " or ".join(missing.demand.device_types)
    return f" ({types})" if types else ""


def _offload(missing: Missing) -> Iterator[str]:
    """The least a replica would have to leave in host memory, where that has the room."""
    weights = missing.demand.estimate.part_bytes(PartName.WEIGHTS)
    found = [
        short
        for node, of_node in enumerate(missing.allowed)
        if (short := _offload_on(missing, node, of_node)) is not None and missing.most_now < short <= weights
    ]
    if found:
        yield f"allow offload of {min(found)} bytes ({gib(min(found))}) in `{_key(missing)}`"


def _offload_on(missing: Missing, node: int, numbers: DeviceSet) -> int | None:
    """Bytes per device to offload on this node; None where that does not help."""
    size = missing.demand.tensor_parallel
    if len(numbers) < size or missing.problem.nodes[node].host_devices:
        return None
    room = sorted(map(missing.room_on, numbers), reverse=True)[size - 1]
    short, left = missing.need.peak_bytes - room, missing.book.left[node]
    enough = missing.demand.cpu_millis <= left.cpu_millis and missing.host_needed(numbers[0], short) <= left.host_bytes
    return short if enough and short > 0 else None
