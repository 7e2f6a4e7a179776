"""An independent look at a plan before anything acts on it.

Shares no code with the solver: it imports the values alone and states the rules a second time, from
the spec and not from `feasible.py`. Knows nothing of goals: a plan may be clumsy and still be sound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from placement.demand import Demand
from placement.inventory import Device, DeviceHealth, Inventory
from placement.plan import Placement, Plan, Strategy
from placement.policy import Policy


class ViolationKind(StrEnum):
    WRONG_INVENTORY = "wrong_inventory"
    WRONG_HEADROOM = "wrong_headroom"
    WRONG_STRATEGY = "wrong_strategy"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_DEVICE = "unknown_device"
    WRONG_NODE = "wrong_node"
    WRONG_NUM_DEVICES = "wrong_num_devices"
    UNHEALTHY_DEVICE = "unhealthy_device"
    CORDONED_DEVICE = "cordoned_device"
    CHANGED_ESTIMATE = "changed_estimate"
    NEGATIVE_BYTES = "negative_bytes"
    OVER_AT_REST = "over_at_rest"
    OVER_AT_PEAK = "over_at_peak"
    DUPLICATE_REPLICA = "duplicate_replica"
    MISNAMED_REPLICA = "misnamed_replica"
    TOO_MANY_REPLICAS = "too_many_replicas"
    UNACCOUNTED_REPLICA = "unaccounted_replica"
    """Neither placed nor refused, or refused more often than missing."""
    NEEDLESS_REFUSAL = "needless_refusal"
    """It would fit beside everything that is placed."""
    PRIORITY_INVERSION = "priority_inversion"
    """It would fit if only lower priorities were not placed."""


@dataclass(frozen=True, slots=True)
class Violation:
    """`subject` is the replica, model or device concerned."""

    kind: ViolationKind
    subject: str
    message: str


def verify(plan: Plan, inventory: Inventory, demands: Sequence[Demand], policy: Policy) -> tuple[Violation, ...]:
    """Every way in which the plan breaks a rule; empty when it is sound."""
    return (
        *_whole(plan, inventory, policy),
        *_each_placement(plan, inventory, demands),
        *_each_device(plan, inventory, policy),
        *_counts(plan, demands),
        *_refused_in_vain(plan, inventory, demands, policy),
    )


def _whole(plan: Plan, inventory: Inventory, policy: Policy) -> Iterator[Violation]:
    if plan.inventory_version != inventory.version:
        message = f"the plan was made from inventory {plan.inventory_version}, this is {inventory.version}"
        yield Violation(ViolationKind.WRONG_INVENTORY, "plan", message)
    if plan.headroom != policy.headroom:
        message = f"the plan keeps {plan.headroom} free, the policy asks for {policy.headroom}"
        yield Violation(ViolationKind.WRONG_HEADROOM, "plan", message)
    if (plan.strategy is Strategy.REDUCED) != bool(plan.refusals):
        message = f"strategy {plan.strategy.value} with {len(plan.refusals)} refusals"
        yield Violation(ViolationKind.WRONG_STRATEGY, "plan", message)


def _each_placement(plan: Plan, inventory: Inventory, demands: Sequence[Demand]) -> Iterator[Violation]:
    asked = {demand.model: demand for demand in demands}
    devices = {device.id: device for node in inventory.nodes for device in node.devices}
    for replica, times in Counter(placement.replica for placement in plan.placements).items():
        if times > 1:
            yield Violation(ViolationKind.DUPLICATE_REPLICA, replica, f"'{replica}' is placed {times} times")
    for placement in plan.placements:
        yield from _its_demand(placement, asked.get(placement.model))
        for name in placement.devices:
            yield from _its_device(placement, name, devices.get(name))


def _its_demand(placement: Placement, demand: Demand | None) -> Iterator[Violation]:
    replica = placement.replica
    model, _, ordinal = replica.rpartition("#")
    if model != placement.model or not (ordinal.isascii() and ordinal.isdecimal()):
        yield Violation(ViolationKind.MISNAMED_REPLICA, replica, f"'{replica}' is no name for '{placement.model}'")
    if any(part.num_bytes < 0 for part in placement.estimate.parts):
        yield Violation(ViolationKind.NEGATIVE_BYTES, replica, f"'{replica}' has a part with negative bytes")
    if demand is None:
        yield Violation(ViolationKind.UNKNOWN_MODEL, replica, f"nobody asked for '{placement.model}'")
        return
    if placement.estimate != demand.estimate:
        message = f"'{replica}' is planned with another estimate than its demand has"
        yield Violation(ViolationKind.CHANGED_ESTIMATE, replica, message)
    if len(set(placement.devices)) != demand.tensor_parallel or len(placement.devices) != demand.tensor_parallel:
        message = f"'{replica}' needs {demand.tensor_parallel} different devices, the plan gives {placement.devices}"
        yield Violation(ViolationKind.WRONG_NUM_DEVICES, replica, message)


def _its_device(placement: Placement, name: str, device: Device | None) -> Iterator[Violation]:
    replica = placement.replica
    if device is None:
        yield Violation(ViolationKind.UNKNOWN_DEVICE, replica, f"'{replica}' is placed on '{name}', which is not there")
        return
    if device.node != placement.node:
        message = f"'{replica}' is placed on node '{placement.node}', but '{name}' belongs to '{device.node}'"
        yield Violation(ViolationKind.WRONG_NODE, replica, message)
    if device.cordoned:
        yield Violation(ViolationKind.CORDONED_DEVICE, replica, f"'{replica}' is placed on cordoned '{name}'")
    if not _healthy_enough(device):
        message = f"'{replica}' is placed on '{name}', which is {device.health.value}"
        yield Violation(ViolationKind.UNHEALTHY_DEVICE, replica, message)


def _each_device(plan: Plan, inventory: Inventory, policy: Policy) -> Iterator[Violation]:
    for device in (device for node in inventory.nodes for device in node.devices):
        here = _on(device, plan.placements)
        if not here:
            continue
        allowed = _allowed_bytes(device, policy)
        rest, start = _rest_bytes(here), _largest_start_bytes(here)
        if rest > allowed:
            message = f"'{device.id}' would hold {rest} bytes at rest, {allowed} are allowed"
            yield Violation(ViolationKind.OVER_AT_REST, device.id, message)
        elif rest + start > allowed:
            message = f"'{device.id}' would hold {rest + start} bytes while one replica starts, {allowed} are allowed"
            yield Violation(ViolationKind.OVER_AT_PEAK, device.id, message)


def _counts(plan: Plan, demands: Sequence[Demand]) -> Iterator[Violation]:
    placed = Counter(placement.model for placement in plan.placements)
    refused: Counter[str] = Counter()
    for refusal in plan.refusals:
        refused[refusal.model] += refusal.num_replicas
        if refusal.num_replicas < 1 or refusal.model not in {demand.model for demand in demands}:
            message = f"a refusal of {refusal.num_replicas} replicas of '{refusal.model}' answers no demand"
            yield Violation(ViolationKind.UNACCOUNTED_REPLICA, refusal.model, message)
    for demand in demands:
        asked, here, not_here = demand.num_replicas, placed[demand.model], refused[demand.model]
        if here > asked:
            message = f"'{demand.model}' has {here} replicas, {asked} were asked for"
            yield Violation(ViolationKind.TOO_MANY_REPLICAS, demand.model, message)
        elif here + not_here != asked:
            message = f"of {asked} replicas of '{demand.model}' {here} are placed and {not_here} refused"
            yield Violation(ViolationKind.UNACCOUNTED_REPLICA, demand.model, message)


def _refused_in_vain(
    plan: Plan, inventory: Inventory, demands: Sequence[Demand], policy: Policy
) -> Iterator[Violation]:
    """Decidable without search: the placed replicas of the same and higher priorities stay where they are."""
    priority = {demand.model: demand.priority for demand in demands}
    for demand in (d for d in demands if d.model in {refusal.model for refusal in plan.refusals}):
        if _one_more_fits(demand, plan.placements, inventory, policy):
            message = f"'{demand.model}' was refused, but there is room for a replica of it"
            yield Violation(ViolationKind.NEEDLESS_REFUSAL, demand.model, message)
            continue
        not_lower = [p for p in plan.placements if priority.get(p.model, demand.priority - 1) >= demand.priority]
        if _one_more_fits(demand, not_lower, inventory, policy):
            message = f"'{demand.model}' was refused while lower priorities hold the room for it"
            yield Violation(ViolationKind.PRIORITY_INVERSION, demand.model, message)


def _one_more_fits(demand: Demand, placements: Sequence[Placement], inventory: Inventory, policy: Policy) -> bool:
    for node in inventory.nodes:
        takers = 0
        for device in node.devices:
            here = _on(device, placements)
            rest = _rest_bytes(here) + demand.estimate.rest_bytes
            start = max(_largest_start_bytes(here), demand.estimate.peak_bytes - demand.estimate.rest_bytes)
            usable = _healthy_enough(device) and not device.cordoned
            takers += usable and rest + start <= _allowed_bytes(device, policy)
        if takers >= demand.tensor_parallel:
            return True
    return False


def _healthy_enough(device: Device) -> bool:
    match device.health:
        case DeviceHealth.HEALTHY | DeviceHealth.DEGRADED | DeviceHealth.THROTTLED:
            return True
        case _:
            return False


def _allowed_bytes(device: Device, policy: Policy) -> int:
    """What is neither headroom (rounded up to a byte) nor held by others."""
    kept, of = Decimal(str(policy.headroom)).as_integer_ratio()
    return device.total_bytes - -(-device.total_bytes * kept // of) - sum(h.num_bytes for h in device.holdings)


def _on(device: Device, placements: Sequence[Placement]) -> list[Placement]:
    return [placement for placement in placements if device.id in placement.devices]


def _rest_bytes(placements: Sequence[Placement]) -> int:
    return sum(part.num_bytes for p in placements for part in p.estimate.parts if not part.only_while_starting)


def _largest_start_bytes(placements: Sequence[Placement]) -> int:
    starts = (sum(part.num_bytes for part in p.estimate.parts if part.only_while_starting) for p in placements)
    return max(starts, default=0)
