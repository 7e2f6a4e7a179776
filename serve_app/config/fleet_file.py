"""A fleet that is not here: nodes and devices as a file says them, for `headroom plan --fleet`.

Short where many are alike: `count` on a node or on an entry of devices. Links, health and bytes of others are said per
entry; entries of one node are numbered through. A node without devices serves from its memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from placement.inventory import Device, DeviceHealth, DeviceKind, Holding, HoldingKind, Inventory, Node
from serve_app.config.problems import ConfigError, Problem, path_text
from serve_app.config.schema_types import EXPECTED, Name, SizeRange
from serve_app.config.section import Section
from serve_app.config.yaml_file import load_yaml
from serve_app.config.yaml_source import Document

MAX_DEVICES = 4096
"""Devices of one fleet file; the largest fleet that was tried takes some seconds to plan."""
MEBIBYTE, PEBIBYTE = 2**20, 2**50
OTHERS = "other programs"

Health = Literal["healthy", "degraded", "throttled", "draining", "quarantined", "probation", "lost"]


class DeviceEntry(Section):
    """`count` devices that are alike."""

    count: int = Field(1, ge=1, le=1024, description="Devices like this one.")
    memory: Annotated[int, SizeRange(MEBIBYTE, PEBIBYTE)] = Field(
        description="Memory of each as the driver reports it, e.g. 80GiB."
    )
    product: Annotated[str, Field(json_schema_extra={EXPECTED: "the name of a product"})] = Field(
        "GPU", min_length=1, max_length=128, description="Name that `device_types` of a model are looked up in."
    )
    risk: float = Field(0.0, ge=0, le=1, description="How likely each is to fail soon; below 0.1 counts as none.")
    numa: int | None = Field(None, ge=0, le=1023, description="NUMA node they belong to; null when unknown.")
    nvlink: bool = Field(False, description="Whether the devices of this entry are joined by NVLink.")
    health: Health = Field("healthy", description="Only healthy, degraded and throttled devices take models.")
    cordoned: bool = Field(False, description="Taken out of service by a person.")
    foreign: Annotated[int, SizeRange(0, PEBIBYTE)] = Field(
        0, description="Memory that other programs hold on each of them."
    )


class NodeEntry(Section):
    """`count` nodes that are alike; more than one are named `<name>-0`, `<name>-1` and so on."""

    name: Name = Field(description="Name of the node.")
    count: int = Field(1, ge=1, le=4096, description="Nodes like this one.")
    cpus: int = Field(0, ge=0, le=4096, description="Cores for replicas; 0 gives none to models that ask for some.")
    memory: Annotated[int, SizeRange(0, PEBIBYTE)] = Field(
        0, description="Memory of the node itself: for offload and `host_memory`, or its device when it has no other."
    )
    foreign: Annotated[int, SizeRange(0, PEBIBYTE)] = Field(
        0, description="Memory of the node that other programs hold."
    )
    devices: list[DeviceEntry] = Field(default_factory=list, description="Devices; none: it serves from its memory.")


class FleetFile(Section):
    """A fleet to plan for."""

    nodes: list[NodeEntry] = Field(min_length=1, max_length=4096, description="Nodes of the fleet.")


def load_fleet(path: Path) -> Inventory:
    """Raises: ConfigError with every problem of the file."""
    file, document = load_yaml(path, FleetFile, kind="a fleet file")
    problems = [*_problems(file, document)]
    if problems:
        raise ConfigError(path.name, problems)
    return Inventory(version=1, nodes=tuple(node for entry in file.nodes for node in _nodes(entry)))


def _problems(file: FleetFile, document: Document) -> Iterator[Problem]:
    """Rules over several keys."""
    devices = sum(entry.count * max(1, sum(device.count for device in entry.devices)) for entry in file.nodes)
    if devices > MAX_DEVICES:
        yield _problem(document, None, "nodes", f"have {devices:,} devices", f"at most {MAX_DEVICES:,}")
        return
    seen: dict[str, int] = {}
    for index, entry in enumerate(file.nodes):
        for name in _names(entry):
            if seen.setdefault(name, index) != index:
                expected = f"a name that no other node has; nodes[{seen[name]}] has it already"
                yield _problem(document, index, "name", f"gives a node '{name}'", expected)
                break
        if not entry.devices and not entry.memory:
            expected = "`devices`, or `memory` to serve from"
            yield _problem(document, index, "name", f"'{entry.name}' has neither devices nor memory", expected)
    without = [index for index, entry in enumerate(file.nodes) if not entry.devices]
    if without and len(without) < len(file.nodes):
        expected = "devices on every node or on none: a model takes other bytes in a node's memory than on a GPU"
        yield _problem(document, without[0], "devices", "is missing", expected)


def _problem(document: Document, index: int | None, key: str, what: str, expected: str) -> Problem:
    location = (key,) if index is None else ("nodes", index, key)
    return Problem(path=path_text(location), what=what, expected=expected, line=document.line_of(location))


def _names(entry: NodeEntry) -> tuple[str, ...]:
    return (entry.name,) if entry.count == 1 else tuple(f"{entry.name}-{number}" for number in range(entry.count))


def _nodes(entry: NodeEntry) -> Iterator[Node]:
    for name in _names(entry):
        devices = tuple(_devices(name, entry)) or (_host(name, entry),)
        yield Node(
            name=name,
            num_cpus=entry.cpus,
            host_memory_bytes=entry.memory,
            devices=devices,
            held_host_memory_bytes=entry.foreign if entry.devices else 0,
        )


def _devices(node: str, entry: NodeEntry) -> Iterator[Device]:
    first = 0
    for alike in entry.devices:
        numbers = range(first, first + alike.count)
        first += alike.count
        names = [f"{node}/gpu-{number}" for number in numbers]
        for number, name in zip(numbers, names, strict=True):
            yield Device(
                id=name,
                uuid=name,
                node=node,
                index=number,
                kind=DeviceKind.CUDA,
                product=alike.product,
                total_bytes=alike.memory,
                health=DeviceHealth(alike.health),
                cordoned=alike.cordoned,
                risk_permille=round(1000 * alike.risk),
                numa_node=alike.numa,
                nvlink_peers=tuple(peer for peer in names if peer != name) if alike.nvlink else (),
                holdings=_holdings(alike.foreign),
            )


def _host(node: str, entry: NodeEntry) -> Device:
    return Device(
        id=f"{node}/host",
        uuid=f"{node}/host",
        node=node,
        index=0,
        kind=DeviceKind.HOST,
        product="host memory",
        total_bytes=entry.memory,
        holdings=_holdings(entry.foreign),
    )


def _holdings(num_bytes: int) -> tuple[Holding, ...]:
    return (Holding(holder=OTHERS, kind=HoldingKind.FOREIGN, num_bytes=num_bytes),) if num_bytes else ()
