"""Questions for the planner's benches: bin packing whose optimum is known, and fleets as an operator would have them.

Everything comes from a seed; a question is what `placement.solver.solve` takes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from placement.demand import Demand, Estimate, Part, PartName
from placement.inventory import Device, DeviceKind, Inventory, Node
from placement.policy import Goal, Policy

MIB = 1 << 20
GIB = 1 << 30
DEVICES_PER_NODE = 8
TRIPLET_CAPACITY, UNIFORM_CAPACITY = 1000, 150
UNIT_BYTES = 64 * MIB
"""Bytes that one unit of a bin packing instance stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Sizes to pack into devices of `capacity`; `optimum` is None where only bounds are known."""

    name: str
    sizes: tuple[int, ...]
    capacity: int
    optimum: int | None


def triplets(num_items: int, *, seed: int) -> Instance:
    """Three items fill each device exactly, so the optimum is a third of the items.

    Source: E. Falkenauer, A hybrid grouping genetic algorithm for bin packing, 1996: the first item from 380 to 490,
    the second from 250 to half of what is left, the third is the rest.
    """
    rng, sizes = random.Random(f"triplets {num_items} {seed}"), list[int]()
    for _ in range(num_items // 3):
        first = rng.randint(380, 490)
        second = rng.randint(250, (TRIPLET_CAPACITY - first) // 2)
        sizes += [first, second, TRIPLET_CAPACITY - first - second]
    rng.shuffle(sizes)
    return Instance(name=f"triplets {num_items}", sizes=tuple(sizes), capacity=TRIPLET_CAPACITY, optimum=num_items // 3)


def uniform(num_items: int, *, seed: int) -> Instance:
    """Sizes from 20 to 100 for devices of 150 (Falkenauer's other class)."""
    rng = random.Random(f"uniform {num_items} {seed}")
    sizes = tuple(rng.randint(20, 100) for _ in range(num_items))
    return Instance(name=f"uniform {num_items}", sizes=sizes, capacity=UNIFORM_CAPACITY, optimum=None)


def first_fit_decreasing(instance: Instance) -> int:
    rooms = list[int]()
    for size in sorted(instance.sizes, reverse=True):
        place = next((number for number, room in enumerate(rooms) if size <= room), None)
        if place is None:
            rooms.append(instance.capacity - size)
        else:
            rooms[place] -= size
    return len(rooms)


def lower_bound(instance: Instance) -> int:
    """Devices that every packing needs: Martello and Toth's L2, for every threshold up to half a device.

    Items above half are alone; those that do not fit beside the largest of them open devices of their own.
    """
    sizes, capacity = instance.sizes, instance.capacity
    best = -(-sum(sizes) // capacity)
    for least in sorted({size for size in sizes if 2 * size <= capacity}):
        lonely = sum(size > capacity - least for size in sizes)
        halves = [size for size in sizes if capacity - least >= size > capacity / 2]
        small = sum(size for size in sizes if capacity / 2 >= size >= least)
        left = small - (len(halves) * capacity - sum(halves))
        best = max(best, lonely + len(halves) + max(0, -(-left // capacity)))
    return best


def as_question(instance: Instance, *, num_devices: int, time_limit_s: float) -> tuple[Inventory, list[Demand], Policy]:
    """One model per item, nothing kept free, so that placing is bin packing."""
    inventory = cluster(num_devices, total_bytes=instance.capacity * UNIT_BYTES)
    demands = [model(f"item-{number}", size * UNIT_BYTES) for number, size in enumerate(instance.sizes)]
    return inventory, demands, Policy(headroom=0.0, time_limit_s=time_limit_s)


def fleet(
    num_devices: int, num_replicas: int, *, num_models: int, goal: Goal, seed: int
) -> tuple[Inventory, list[Demand], Policy]:
    """80 GiB devices in nodes of eight; models of 5 to 30 GiB, 0 to 2 GiB more while starting, three priorities."""
    rng = random.Random(f"fleet {num_devices} {num_replicas} {num_models} {seed}")
    demands = [
        model(
            f"model-{number}",
            int(rng.uniform(5, 30) * GIB),
            starting_bytes=int(rng.uniform(0, 2) * GIB),
            priority=number % 3,
            num_replicas=num_replicas // num_models + (number < num_replicas % num_models),
        )
        for number in range(num_models)
    ]
    return cluster(num_devices, total_bytes=80 * GIB), demands, Policy(goal=goal)


def cluster(num_devices: int, *, total_bytes: int) -> Inventory:
    nodes = list[Node]()
    for first in range(0, num_devices, DEVICES_PER_NODE):
        name = f"node-{first // DEVICES_PER_NODE}"
        indices = range(min(DEVICES_PER_NODE, num_devices - first))
        devices = tuple(_device(name, index, total_bytes) for index in indices)
        nodes.append(Node(name=name, num_cpus=128, host_memory_bytes=1024 * GIB, devices=devices))
    return Inventory(version=1, nodes=tuple(nodes))


def without_node(inventory: Inventory, name: str) -> Inventory:
    return Inventory(version=inventory.version + 1, nodes=tuple(n for n in inventory.nodes if n.name != name))


def model(name: str, rest_bytes: int, *, starting_bytes: int = 0, priority: int = 0, num_replicas: int = 1) -> Demand:
    parts: Sequence[Part] = (
        Part(name=PartName.WEIGHTS, num_bytes=rest_bytes, source="bench"),
        Part(name=PartName.LOADING, num_bytes=starting_bytes, source="bench", only_while_starting=True),
    )
    return Demand(model=name, num_replicas=num_replicas, priority=priority, estimate=Estimate(parts=tuple(parts)))


def _device(node: str, index: int, total_bytes: int) -> Device:
    name = f"{node}/gpu-{index}"
    return Device(
        id=name, uuid=name, node=node, index=index, kind=DeviceKind.SIMULATED, product="bench", total_bytes=total_bytes
    )
