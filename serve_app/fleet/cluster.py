"""The nodes of the running Ray cluster, and an inventory read on each of them.

The only place that turns Ray's view of nodes into ours. Blocks; run it off the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from placement.inventory import DeviceKind, Inventory, Node
from serve_app.config.settings import DeviceChoice
from serve_app.errors import DeviceUnreadable, FleetUnready
from serve_app.fleet.devices import local_inventory
from serve_app.fleet.names import node_name, node_roles, node_selector
from serve_app.logs import logger

_READ_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """One live Ray node. `memory_bytes` is what Ray was told it may hand out (`ray start --memory`)."""

    name: str
    address: str
    selector: Mapping[str, str]
    memory_bytes: int
    roles: frozenset[str]


def live_nodes() -> tuple[ClusterNode, ...]:
    nodes = [_cluster_node(node) for node in ray.nodes() if node["Alive"]]
    return tuple(sorted(nodes, key=lambda node: node.name))


def read_inventory(nodes: tuple[ClusterNode, ...], *, choice: DeviceChoice, version: int) -> Inventory:
    """Ask every node for its devices; one that does not answer in time, or dies meanwhile, is left out.

    Raises: FleetUnready when none answers.
    """
    task = ray.remote(_read_node)
    pending = {
        node.name: task.options(num_cpus=0, label_selector=dict(node.selector)).remote(
            choice, node.name, node.memory_bytes
        )
        for node in nodes
    }
    until_s = time.monotonic() + _READ_TIMEOUT_S
    read = {name: _told(name, reference, until_s) for name, reference in pending.items()}
    known = tuple(replace(told, roles=node.roles) for node in nodes if (told := read[node.name]) is not None)
    if not known:
        raise FleetUnready(
            f"No node of {sorted(pending)} told its devices within {_READ_TIMEOUT_S:.0f} s.",
            advice="Look at `ray status`; a node that hangs must be removed.",
        )
    return Inventory(version=version, nodes=known)


def _told(name: str, reference: Any, until_s: float) -> Node | None:
    try:
        told: Node = ray.get(reference, timeout=max(0.1, until_s - time.monotonic()))
    except DeviceUnreadable:
        raise
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError) as error:
        if isinstance(cause := getattr(error, "cause", None), DeviceUnreadable):
            raise cause from error
        _log.error("a node does not tell its devices", node=name, error=type(error).__name__)
        return None
    return told


def _cluster_node(node: Mapping[str, object]) -> ClusterNode:
    labels = node["Labels"]
    resources = node["Resources"]
    assert isinstance(labels, dict)
    assert isinstance(resources, dict)
    return ClusterNode(
        name=node_name(labels),
        address=str(node["NodeManagerAddress"]),
        selector=node_selector(labels),
        memory_bytes=int(resources.get("memory", 0)),
        roles=node_roles(labels),
    )


def _read_node(choice: DeviceChoice, name: str, memory_bytes: int) -> Node:
    node = local_inventory(choice, name, host_total_bytes=None).nodes[0]
    hosts = [device for device in node.devices if device.kind is DeviceKind.HOST]
    if hosts and memory_bytes < hosts[0].total_bytes:
        return local_inventory(choice, name, host_total_bytes=memory_bytes).nodes[0]
    return node


_log = logger("headroom.fleet")
