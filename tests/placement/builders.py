"""Fleets, demands and estimates in one line each: `fleet("node-1: 2x24GiB")`, `demand("qwen", gib=16)`."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import strategies as st

from placement.demand import Demand, Estimate, Part, PartName
from placement.inventory import Device, DeviceHealth, DeviceKind, Holding, HoldingKind, Inventory, Node
from placement.plan import Placement, Plan
from placement.policy import Goal, Policy

GIB = 1 << 30
GB = 10**9
UNITS = {"GiB": GIB, "GB": GB}


def fleet(*nodes: str, version: int = 1) -> Inventory:
    """`fleet("a: 2x24GiB", "b: 1x80GB 2x40GB")`: nodes with GPUs of these sizes."""
    return Inventory(version=version, nodes=tuple(_node(*text.split(":")) for text in nodes))


def _node(name: str, sizes: str) -> Node:
    totals = [
        int(size) * UNITS[unit]
        for many, size, unit in re.findall(r"(\d+)x(\d+)(GiB|GB)", sizes)
        for _ in range(int(many))
    ]
    devices = tuple(gpu(name, index, total) for index, total in enumerate(totals))
    return Node(name=name, num_cpus=16, host_memory_bytes=128 * GIB, devices=devices)


def gpu(node: str, index: int, total_bytes: int) -> Device:
    return Device(
        id=f"{node}/gpu-{index}",
        uuid=f"GPU-{node}-{index}",
        node=node,
        index=index,
        kind=DeviceKind.CUDA,
        product="NVIDIA Test",
        total_bytes=total_bytes,
    )


def with_device(
    inventory: Inventory,
    device_id: str,
    *,
    health: DeviceHealth | None = None,
    cordoned: bool | None = None,
    numa_node: int | None = None,
    nvlink_peers: tuple[str, ...] | None = None,
    held_bytes: int | None = None,
    product: str | None = None,
    risk_permille: int | None = None,
) -> Inventory:
    """The inventory with some facts of one device changed."""

    def changed(device: Device) -> Device:
        if device.id != device_id:
            return device
        holding = Holding(holder="pid 4711", kind=HoldingKind.FOREIGN, num_bytes=held_bytes or 0)
        return replace(
            device,
            health=device.health if health is None else health,
            cordoned=device.cordoned if cordoned is None else cordoned,
            numa_node=device.numa_node if numa_node is None else numa_node,
            nvlink_peers=device.nvlink_peers if nvlink_peers is None else nvlink_peers,
            holdings=device.holdings if held_bytes is None else (holding,),
            product=device.product if product is None else product,
            risk_permille=device.risk_permille if risk_permille is None else risk_permille,
        )

    nodes = (replace(node, devices=tuple(map(changed, node.devices))) for node in inventory.nodes)
    return replace(inventory, nodes=tuple(nodes))


def with_node(
    inventory: Inventory,
    name: str,
    *,
    num_cpus: int | None = None,
    host_gib: float | None = None,
    held_cpu_millis: int = 0,
    held_host_gib: float = 0.0,
) -> Inventory:
    """The inventory with other cores and other host memory on one node."""

    def changed(node: Node) -> Node:
        if node.name != name:
            return node
        return replace(
            node,
            num_cpus=node.num_cpus if num_cpus is None else num_cpus,
            host_memory_bytes=node.host_memory_bytes if host_gib is None else int(host_gib * GIB),
            held_cpu_millis=held_cpu_millis,
            held_host_memory_bytes=int(held_host_gib * GIB),
        )

    return replace(inventory, nodes=tuple(map(changed, inventory.nodes)))


def host(name: str, *, gib: int, num_cpus: int = 16) -> Inventory:
    """One node without GPUs, whose device is its memory."""
    total = gib * GIB
    device = replace(
        gpu(name, 0, total), id=f"{name}/host", uuid=f"{name}/host", kind=DeviceKind.HOST, product="host memory"
    )
    node = Node(name=name, num_cpus=num_cpus, host_memory_bytes=total, devices=(device,))
    return Inventory(version=1, nodes=(node,))


def estimate(weights: int, *, kv: int = 0, loading: int = 0) -> Estimate:
    parts = (
        Part(name=PartName.WEIGHTS, num_bytes=weights, source="test"),
        Part(name=PartName.KV_CACHE, num_bytes=kv, source="test"),
        Part(name=PartName.LOADING, num_bytes=loading, source="test", only_while_starting=True),
    )
    return Estimate(parts=parts)


def demand(
    model: str,
    *,
    gib: float = 1.0,
    num_bytes: int | None = None,
    kv_gib: float = 0.0,
    loading_gib: float = 0.0,
    priority: int = 0,
    replicas: int = 1,
    tensor_parallel: int = 1,
    path: str = "",
    types: tuple[str, ...] = (),
    cpu_millis: int = 0,
    host_gib: float = 0.0,
    requests_per_s: float = 0.0,
    offload_gib: float = 0.0,
) -> Demand:
    weights = int(gib * GIB) if num_bytes is None else num_bytes
    return Demand(
        model=model,
        num_replicas=replicas,
        priority=priority,
        estimate=estimate(weights, kv=int(kv_gib * GIB), loading=int(loading_gib * GIB)),
        tensor_parallel=tensor_parallel,
        path=path,
        device_types=types,
        cpu_millis=cpu_millis,
        host_memory_bytes=int(host_gib * GIB),
        requests_per_s=requests_per_s,
        max_offload_bytes=int(offload_gib * GIB),
    )


def where(plan: Plan) -> dict[str, str]:
    """Replica to devices, joined by "+"."""
    return {placement.replica: "+".join(placement.devices) for placement in plan.placements}


def by_replica(plan: Plan, replica: str) -> Placement:
    return next(placement for placement in plan.placements if placement.replica == replica)


@st.composite
def problems(draw: st.DrawFn, *, max_tensor_parallel: int = 2) -> tuple[Inventory, tuple[Demand, ...], Policy]:
    """Small whole problems: 1 or 2 nodes of up to 3 devices, up to 4 demands; sizes in whole bytes up to 40."""
    nodes = tuple(
        Node(name=f"n{i}", num_cpus=4, host_memory_bytes=0, devices=draw(_devices(f"n{i}")))
        for i in range(draw(st.integers(1, 2)))
    )
    demands = tuple(draw(_demand(f"m{i}", max_tensor_parallel)) for i in range(draw(st.sampled_from([1, 2, 3, 4, 0]))))
    policy = Policy(headroom=draw(st.sampled_from([0.0, 0.1, 0.2, 0.5])), goal=draw(st.sampled_from(list(Goal))))
    return Inventory(version=draw(st.integers(0, 9)), nodes=nodes), demands, policy


@st.composite
def _devices(draw: st.DrawFn, node: str) -> tuple[Device, ...]:
    return tuple(draw(_device(node, index)) for index in range(draw(st.sampled_from([0, 1, 2, 2, 3]))))


@st.composite
def _device(draw: st.DrawFn, node: str, index: int) -> Device:
    held = draw(st.integers(0, 10))
    return replace(
        gpu(node, index, draw(st.sampled_from([1, 7, 10, 15, 20, 24, 25, 30, 40]))),
        health=draw(st.sampled_from([DeviceHealth.HEALTHY] * 12 + list(DeviceHealth))),
        cordoned=draw(st.sampled_from([False] * 9 + [True])),
        risk_permille=draw(st.sampled_from([0] * 8 + [99, 100, 500, 1000])),
        numa_node=draw(st.sampled_from([None, 0, 1])),
        holdings=(Holding(holder="x", kind=HoldingKind.RESERVED, num_bytes=held),) if held > 5 else (),
    )


@st.composite
def _demand(draw: st.DrawFn, model: str, max_tensor_parallel: int) -> Demand:
    weights, kv, loading = draw(st.integers(1, 16)), draw(st.integers(0, 5)), draw(st.integers(0, 10))
    return Demand(
        model=model,
        num_replicas=draw(st.sampled_from([1, 2, 3, 0])),
        priority=draw(st.integers(0, 2)),
        estimate=estimate(weights, kv=kv, loading=loading),
        tensor_parallel=draw(st.integers(1, max_tensor_parallel)),
        path=f"models[{model[1:]}]",
    )


@st.composite
def rich_problems(draw: st.DrawFn, *, max_tensor_parallel: int = 2) -> tuple[Inventory, tuple[Demand, ...], Policy]:
    """As `problems`, with device types, host devices, cores, host memory, rates and offload; all in single figures."""
    inventory, demands, policy = draw(problems(max_tensor_parallel=max_tensor_parallel))
    nodes = tuple(draw(_rich_node(node)) for node in inventory.nodes)
    return replace(inventory, nodes=nodes), tuple(draw(_rich_demand(demand)) for demand in demands), policy


@st.composite
def _rich_node(draw: st.DrawFn, node: Node) -> Node:
    devices = tuple(replace(d, product=draw(st.sampled_from(["NVIDIA H100 80GB", "Tesla V100"]))) for d in node.devices)
    if devices and draw(st.sampled_from([False, False, False, True])):
        devices = (replace(devices[0], kind=DeviceKind.HOST), *devices[1:])
    return replace(
        node,
        devices=devices,
        num_cpus=draw(st.sampled_from([4, 8, 1])),
        host_memory_bytes=draw(st.sampled_from([40, 20, 10, 0])),
        held_cpu_millis=draw(st.sampled_from([0, 0, 1500])),
        held_host_memory_bytes=draw(st.sampled_from([0, 0, 7])),
    )


@st.composite
def _rich_demand(draw: st.DrawFn, demand: Demand) -> Demand:
    return replace(
        demand,
        device_types=draw(st.sampled_from([(), (), ("h100",), ("V100", "A100")])),
        cpu_millis=draw(st.sampled_from([0, 0, 900, 2000])),
        host_memory_bytes=draw(st.sampled_from([0, 0, 3, 9])),
        requests_per_s=draw(st.sampled_from([0.0, 0.0, 1.5, 20.0])),
        max_offload_bytes=draw(st.sampled_from([0, 0, 4, 30])),
    )
