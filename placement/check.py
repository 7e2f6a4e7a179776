"""An independent look at a plan before anything acts on it.

Shares no code with the solver: with `check_room`, `check_refusal` and `check_goals` it imports the values alone and
states the rules a second time, from the spec. A plan may be clumsy and still be sound. What is words alone (the reason
of a placement, the name of the solver) can only be held to be there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from placement.check_goals import wrong_goals
from placement.check_refusal import RefusalCheck, Vain
from placement.check_room import (
    allowed_bytes,
    allowed_cpu_millis,
    allowed_host_bytes,
    healthy_enough,
    largest_start_bytes,
    lightened,
    on_device,
    rest_bytes,
    right_type,
    used_cpu_millis,
    used_host_bytes,
    weights_of,
)
from placement.demand import Demand
from placement.inventory import Device, DeviceKind, Inventory
from placement.plan import Placement, Plan, Strategy
from placement.policy import Policy


class ViolationKind(StrEnum):
    WRONG_INVENTORY = "wrong_inventory"
    WRONG_HEADROOM = "wrong_headroom"
    WRONG_STRATEGY = "wrong_strategy"
    WRONG_GOALS = "wrong_goals"
    """A goal, bound or gap that does not go with the plan or with each other."""
    WORDLESS = "wordless"
    """No solver, or no reason, is named."""
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_DEVICE = "unknown_device"
    WRONG_NODE = "wrong_node"
    WRONG_NUM_DEVICES = "wrong_num_devices"
    UNHEALTHY_DEVICE = "unhealthy_device"
    CORDONED_DEVICE = "cordoned_device"
    WRONG_TYPE = "wrong_type"
    WRONG_OFFLOAD = "wrong_offload"
    """More or less in host memory than the demand allows, or where that makes no room."""
    CHANGED_ESTIMATE = "changed_estimate"
    NEGATIVE_BYTES = "negative_bytes"
    OVER_AT_REST = "over_at_rest"
    OVER_AT_PEAK = "over_at_peak"
    OVER_CPU = "over_cpu"
    OVER_HOST_MEMORY = "over_host_memory"
    DUPLICATE_REPLICA = "duplicate_replica"
    MISNAMED_REPLICA = "misnamed_replica"
    TOO_MANY_REPLICAS = "too_many_replicas"
    UNACCOUNTED_REPLICA = "unaccounted_replica"
    """Neither placed nor refused, or refused more often than missing."""
    WRONG_REFUSAL = "wrong_refusal"
    """Its facts are none."""
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
        *_whole(plan, inventory, demands, policy),
        *_each_placement(plan, inventory, demands),
        *_each_device(plan, inventory, policy),
        *_each_node(plan, inventory, demands, policy),
        *_counts(plan, demands),
        *_each_refusal(plan, inventory, demands, policy),
    )


def _whole(plan: Plan, inventory: Inventory, demands: Sequence[Demand], policy: Policy) -> Iterator[Violation]:
    if plan.inventory_version != inventory.version:
        message = f"the plan was made from inventory {plan.inventory_version}, this is {inventory.version}"
        yield Violation(ViolationKind.WRONG_INVENTORY, "plan", message)
    if plan.headroom != policy.headroom:
        message = f"the plan keeps {plan.headroom} free, the policy asks for {policy.headroom}"
        yield Violation(ViolationKind.WRONG_HEADROOM, "plan", message)
    named = _strategy(plan)
    if plan.strategy is not named:
        message = f"the strategy is called {plan.strategy.value} and is {named.value}"
        yield Violation(ViolationKind.WRONG_STRATEGY, "plan", message)
    if not plan.solver:
        yield Violation(ViolationKind.WORDLESS, "plan", "the plan does not say which solver made it")
    for message in wrong_goals(plan, inventory, demands):
        yield Violation(ViolationKind.WRONG_GOALS, "plan", message)


def _strategy(plan: Plan) -> Strategy:
    """What the plan must be called."""
    if plan.refusals:
        return Strategy.REDUCED
    if any(placement.offload_bytes > 0 for placement in plan.placements):
        return Strategy.OFFLOAD
    if any(len(placement.devices) > 1 for placement in plan.placements):
        return Strategy.TENSOR_PARALLEL
    in_use = {device for placement in plan.placements for device in placement.devices}
    return Strategy.MULTI_DEVICE if len(in_use) > 1 else Strategy.SINGLE_DEVICE


def _each_placement(plan: Plan, inventory: Inventory, demands: Sequence[Demand]) -> Iterator[Violation]:
    asked = {demand.model: demand for demand in demands}
    devices = {device.id: device for node in inventory.nodes for device in node.devices}
    for replica, times in Counter(placement.replica for placement in plan.placements).items():
        if times > 1:
            yield Violation(ViolationKind.DUPLICATE_REPLICA, replica, f"'{replica}' is placed {times} times")
    for placement in plan.placements:
        yield from _its_demand(placement, asked.get(placement.model))
        for name in placement.devices:
            yield from _its_device(placement, name, devices.get(name), asked.get(placement.model))
        if not placement.reason:
            yield Violation(ViolationKind.WORDLESS, placement.replica, f"'{placement.replica}' has no reason")


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
    if not 0 <= placement.offload_bytes <= min(demand.max_offload_bytes, weights_of(demand)):
        message = (
            f"'{replica}' offloads {placement.offload_bytes} bytes, it may {demand.max_offload_bytes} of its weights"
        )
        yield Violation(ViolationKind.WRONG_OFFLOAD, replica, message)
    if placement.estimate.parts != lightened(demand.estimate, placement.offload_bytes):
        message = f"'{replica}' is planned with another estimate than its demand has, less what it offloads"
        yield Violation(ViolationKind.CHANGED_ESTIMATE, replica, message)
    if len(set(placement.devices)) != demand.tensor_parallel or len(placement.devices) != demand.tensor_parallel:
        message = f"'{replica}' needs {demand.tensor_parallel} different devices, the plan gives {placement.devices}"
        yield Violation(ViolationKind.WRONG_NUM_DEVICES, replica, message)


def _its_device(placement: Placement, name: str, device: Device | None, demand: Demand | None) -> Iterator[Violation]:
    replica = placement.replica
    if device is None:
        yield Violation(ViolationKind.UNKNOWN_DEVICE, replica, f"'{replica}' is placed on '{name}', which is not there")
        return
    if device.node != placement.node:
        message = f"'{replica}' is placed on node '{placement.node}', but '{name}' belongs to '{device.node}'"
        yield Violation(ViolationKind.WRONG_NODE, replica, message)
    if device.cordoned:
        yield Violation(ViolationKind.CORDONED_DEVICE, replica, f"'{replica}' is placed on cordoned '{name}'")
    if not healthy_enough(device):
        message = f"'{replica}' is placed on '{name}', which is {device.health.value}"
        yield Violation(ViolationKind.UNHEALTHY_DEVICE, replica, message)
    if demand is not None and not right_type(device, demand):
        message = f"'{replica}' is placed on '{name}', a {device.product}; it takes {', '.join(demand.device_types)}"
        yield Violation(ViolationKind.WRONG_TYPE, replica, message)
    if device.kind is DeviceKind.HOST and placement.offload_bytes:
        message = f"'{replica}' offloads to host memory and lies there, on '{name}'"
        yield Violation(ViolationKind.WRONG_OFFLOAD, replica, message)


def _each_device(plan: Plan, inventory: Inventory, policy: Policy) -> Iterator[Violation]:
    for device in (device for node in inventory.nodes for device in node.devices):
        here = on_device(device, plan.placements)
        if not here:
            continue
        allowed = allowed_bytes(device, policy.headroom)
        rest, start = rest_bytes(here), largest_start_bytes(here)
        if rest > allowed:
            message = f"'{device.id}' would hold {rest} bytes at rest, {allowed} are allowed"
            yield Violation(ViolationKind.OVER_AT_REST, device.id, message)
        elif rest + start > allowed:
            message = f"'{device.id}' would hold {rest + start} bytes while one replica starts, {allowed} are allowed"
            yield Violation(ViolationKind.OVER_AT_PEAK, device.id, message)


def _each_node(plan: Plan, inventory: Inventory, demands: Sequence[Demand], policy: Policy) -> Iterator[Violation]:
    asked = {demand.model: demand for demand in demands}
    for node in inventory.nodes:
        cpu, cpus = used_cpu_millis(node, plan.placements, asked), allowed_cpu_millis(node)
        if cpu > cpus:
            message = f"'{node.name}' would give {cpu} thousandths of a core, {cpus} are allowed"
            yield Violation(ViolationKind.OVER_CPU, node.name, message)
        used, allowed = used_host_bytes(node, plan.placements, asked), allowed_host_bytes(node, policy.headroom)
        if used > allowed:
            message = f"'{node.name}' would give {used} bytes of its host memory, {allowed} are allowed"
            yield Violation(ViolationKind.OVER_HOST_MEMORY, node.name, message)


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


def _each_refusal(plan: Plan, inventory: Inventory, demands: Sequence[Demand], policy: Policy) -> Iterator[Violation]:
    asked = {demand.model: demand for demand in demands}
    look = RefusalCheck(plan.placements, inventory, asked, policy.headroom)
    for refusal in plan.refusals:
        demand = asked.get(refusal.model)
        if demand is None:
            continue  # `_counts` has found it
        match look.in_vain(demand):
            case Vain.NEEDLESS:
                message = f"'{demand.model}' was refused, but there is room for a replica of it"
                yield Violation(ViolationKind.NEEDLESS_REFUSAL, demand.model, message)
            case Vain.INVERTED:
                message = f"'{demand.model}' was refused while lower priorities hold the room for it"
                yield Violation(ViolationKind.PRIORITY_INVERSION, demand.model, message)
            case None:
                wrong = look.wrong_facts(refusal, demand)
                if wrong:
                    message = f"the refusal of '{demand.model}' {wrong}"
                    yield Violation(ViolationKind.WRONG_REFUSAL, demand.model, message)
