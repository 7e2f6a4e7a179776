"""The rules of room as the verifier states them, a second time and from the spec: what a device and a node may take.

Imports the values alone; shares nothing with `feasible.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cache

from placement.demand import Demand, Estimate, Part, PartName
from placement.inventory import Device, DeviceHealth, DeviceKind, Node
from placement.plan import Placement


def healthy_enough(device: Device) -> bool:
    match device.health:
        case DeviceHealth.HEALTHY | DeviceHealth.DEGRADED | DeviceHealth.THROTTLED:
            return True
        case _:
            return False


def right_type(device: Device, demand: Demand) -> bool:
    """A type is the product, or words of it, in any case; "A|B" is either."""
    return not demand.device_types or _is_one_of(device.product.lower(), demand.device_types)


@cache
def _is_one_of(product: str, types: tuple[str, ...]) -> bool:
    words = _words(product)
    return any(_among(words, _words(wanted.lower())) for entry in types for wanted in entry.split("|"))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _among(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(list(words[at : at + len(wanted)]) == list(wanted) for at in range(len(words) - len(wanted) + 1))


def kept_free(total_bytes: int, headroom: float) -> int:
    """Headroom in bytes, rounded up."""
    kept, of = Decimal(str(headroom)).as_integer_ratio()
    return -(-total_bytes * kept // of)


def allowed_bytes(device: Device, headroom: float) -> int:
    """What is neither headroom nor held by others."""
    held = sum(holding.num_bytes for holding in device.holdings)
    return device.total_bytes - kept_free(device.total_bytes, headroom) - held


def allowed_cpu_millis(node: Node) -> int:
    return max(0, 1000 * node.num_cpus - node.held_cpu_millis)


def allowed_host_bytes(node: Node, headroom: float) -> int:
    """Of a node whose devices are its memory, what these devices allow together."""
    memory = [device for device in node.devices if device.kind is DeviceKind.HOST]
    if memory:
        return sum(max(0, allowed_bytes(device, headroom)) for device in memory)
    free = node.host_memory_bytes - kept_free(node.host_memory_bytes, headroom)
    return max(0, free - node.held_host_memory_bytes)


def on_device(device: Device, placements: Iterable[Placement]) -> list[Placement]:
    return [placement for placement in placements if device.id in placement.devices]


def resting(estimate: Estimate) -> int:
    return sum(part.num_bytes for part in estimate.parts if not part.only_while_starting)


def starting(estimate: Estimate) -> int:
    return sum(part.num_bytes for part in estimate.parts if part.only_while_starting)


def rest_bytes(placements: Iterable[Placement]) -> int:
    return sum(resting(placement.estimate) for placement in placements)


def largest_start_bytes(placements: Iterable[Placement]) -> int:
    return max((starting(placement.estimate) for placement in placements), default=0)


def used_host_bytes(node: Node, placements: Sequence[Placement], asked: dict[str, Demand]) -> int:
    """Host memory that these placements on the node take, with what lies on devices that are the node's memory."""
    here = [placement for placement in placements if placement.node == node.name]
    used = sum(p.offload_bytes * len(p.devices) for p in here)
    used += sum(asked[p.model].host_memory_bytes for p in here if p.model in asked)
    for device in node.devices:
        if device.kind is DeviceKind.HOST:
            lying = on_device(device, here)
            used += rest_bytes(lying) + largest_start_bytes(lying)
    return used


def used_cpu_millis(node: Node, placements: Sequence[Placement], asked: dict[str, Demand]) -> int:
    here = (p.model for p in placements if p.node == node.name)
    return sum(asked[model].cpu_millis for model in here if model in asked)


def lightened(estimate: Estimate, offload_bytes: int) -> tuple[Part, ...]:
    """The parts as they must lie when so many bytes of weights are elsewhere, taken from the first part on."""
    lighter = list[Part]()
    for part in estimate.parts:
        away = min(max(0, offload_bytes), part.num_bytes) if part.name is PartName.WEIGHTS else 0
        offload_bytes -= away
        lighter.append(
            Part(
                name=part.name,
                num_bytes=part.num_bytes - away,
                source=part.source,
                only_while_starting=part.only_while_starting,
            )
        )
    return tuple(lighter)


def weights_of(demand: Demand) -> int:
    return sum(part.num_bytes for part in demand.estimate.parts if part.name is PartName.WEIGHTS)
