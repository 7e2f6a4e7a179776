"""Questions that contradict themselves. "No room" is never one of them: that is an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from placement.demand import Demand
from placement.errors import InvalidProblem
from placement.feasible import is_usable
from placement.inventory import Device, Inventory, Node
from placement.policy import Policy

MAX_REQUESTS_PER_S = 10**9
"""Far above any fleet, and low enough that sums of thousandths stay exact in a solver's 64 bits."""


def reject_contradictions(inventory: Inventory, demands: Sequence[Demand], policy: Policy) -> None:
    """Raises: InvalidProblem, with the path of the demand or the name of the node or device."""
    _reject_twice("node", (node.name for node in inventory.nodes))
    _reject_twice("device", (device.id for device in inventory.devices))
    _reject_twice("demand for model", (demand.model for demand in demands))
    for node in inventory.nodes:
        _reject_bad_node(node)
        for device in node.devices:
            _reject_bad_device(device, node)
    for demand in demands:
        _reject_bad_demand(demand)
    if not 0.0 <= policy.headroom < 1.0:
        raise InvalidProblem(f"headroom is {policy.headroom}; it must be at least 0 and below 1")
    if not policy.time_limit_s >= 0.0:
        raise InvalidProblem(f"time_limit_s is {policy.time_limit_s}; it must be a number of seconds from 0 up")


def _reject_twice(what: str, names: Iterable[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InvalidProblem(f"{what} '{twice[0]}' is given more than once; name each of them once")


def _reject_bad_node(node: Node) -> None:
    amounts = {
        "num_cpus": node.num_cpus,
        "host_memory_bytes": node.host_memory_bytes,
        "held_cpu_millis": node.held_cpu_millis,
        "held_host_memory_bytes": node.held_host_memory_bytes,
    }
    for key, amount in amounts.items():
        if amount < 0:
            raise InvalidProblem(f"node '{node.name}' has {key} = {amount}; it must not be negative")


def _reject_bad_device(device: Device, node: Node) -> None:
    if device.node != node.name:
        raise InvalidProblem(f"device '{device.id}' is listed under node '{node.name}' but names '{device.node}'")
    if device.total_bytes < 0 or any(holding.num_bytes < 0 for holding in device.holdings):
        raise InvalidProblem(f"device '{device.id}' has a negative number of bytes; count them from 0 up")
    if not 0 <= device.risk_permille <= 1000:
        raise InvalidProblem(f"device '{device.id}' has risk_permille = {device.risk_permille}; say 0 to 1000")
    if device.total_bytes == 0 and is_usable(device):
        raise InvalidProblem(
            f"device '{device.id}' takes shares and has 0 bytes of memory; give its size, or cordon it"
        )


def _reject_bad_demand(demand: Demand) -> None:
    where = demand.path or f"demand '{demand.model}'"
    if any(part.num_bytes < 0 for part in demand.estimate.parts):
        raise InvalidProblem(f"{where} has an estimate with a negative number of bytes; count every part from 0 up")
    if demand.estimate.peak_bytes == 0:
        raise InvalidProblem(f"{where} has an estimate of 0 bytes; a replica takes memory, say how much")
    if demand.num_replicas < 0 or demand.tensor_parallel < 1:
        raise InvalidProblem(
            f"{where} asks for {demand.num_replicas} replicas on {demand.tensor_parallel} devices each; "
            "replicas must not be negative and devices at least 1"
        )
    if not 0 <= demand.requests_per_s <= MAX_REQUESTS_PER_S:
        raise InvalidProblem(
            f"{where} asks to serve {demand.requests_per_s} requests/s; say 0 (unknown) to {MAX_REQUESTS_PER_S}"
        )
    _reject_bad_amounts(demand, where)


def _reject_bad_amounts(demand: Demand, where: str) -> None:
    amounts = {
        "cpu_millis": demand.cpu_millis,
        "host_memory_bytes": demand.host_memory_bytes,
        "max_offload_bytes": demand.max_offload_bytes,
    }
    for key, amount in amounts.items():
        if amount < 0:
            raise InvalidProblem(f"{where} has {key} = {amount}; it must not be negative")
    if any(not name.strip() for entry in demand.device_types for name in entry.split("|")):
        raise InvalidProblem(f"{where} names an empty device type among {list(demand.device_types)}")
