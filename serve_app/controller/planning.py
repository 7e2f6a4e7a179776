"""From settings to a verified plan: weights, demands, the inventory less what is ours, the solve.

What bring-up and apply have in common. Blocking work is done in threads; nothing here changes anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from placement.check import verify
from placement.demand import Demand
from placement.inventory import Device, DeviceKind, Holding, HoldingKind, Inventory
from placement.plan import Placement, Plan
from placement.policy import Policy
from placement.solver import solve
from serve_app.config.settings import ModelSettings, Settings, StorageSettings
from serve_app.controller.claims import Slot, Weights
from serve_app.controller.store import Store
from serve_app.controller.weights import weights_of
from serve_app.errors import HeadroomError
from serve_app.fleet.actors import DeviceReading
from serve_app.fleet.demands import demand_of
from serve_app.fleet.measurements import measurement_key, shape_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """What must come back together after a restart.

    `key` is the digest of settings and weights, `demands` what the plan answers. `retiring` are slots of the plan
    before this one whose engines may still live.
    """

    key: str
    inventory: Inventory
    demands: tuple[Demand, ...]
    plan: Plan
    slots: tuple[Slot, ...]
    retiring: tuple[Slot, ...] = ()


async def find_weights(
    models: Iterable[ModelSettings], storage: StorageSettings, store: Store
) -> tuple[dict[str, Weights], dict[str, HeadroomError]]:
    """The checkpoint of each model, every byte of it read; and what is wrong with those that have none."""
    found, problems = dict[str, Weights](), dict[str, HeadroomError]()
    for model in models:
        try:
            found[model.id] = await asyncio.to_thread(weights_of, model, storage, store.served.path_of(model))
        except HeadroomError as error:
            problems[model.id] = error
    return found, problems


def demands_for(
    settings: Settings, weights: Mapping[str, Weights], *, kind: DeviceKind, store: Store
) -> tuple[tuple[Demand, ...], dict[str, HeadroomError]]:
    """Estimates by the device kind of the fleet, corrected by what an earlier start measured. Reads files."""
    demands, problems = list[Demand](), dict[str, HeadroomError]()
    for model in (model for model in settings.models if model.id in weights):
        path = weights[model.id].path
        measured = store.measurement(measurement_key(model, shape_digest(path), kind))
        try:
            demands.append(demand_of(model, settings, path, kind=kind, measured=measured))
        except HeadroomError as error:
            problems[model.id] = error
    return tuple(demands), problems


def solved(
    inventory: Inventory, demands: Sequence[Demand], *, headroom: float, running: Sequence[Placement] = ()
) -> Plan:
    """The plan, seen by the verifier."""
    policy = Policy(headroom=headroom)
    began_s = time.monotonic()
    plan = solve(inventory, demands, policy, running=running, elapsed_s=lambda: time.monotonic() - began_s)
    violations = verify(plan, inventory, demands, policy)
    assert not violations, f"the solver made a plan that its verifier rejects: {violations}"
    return plan


def without_ours(inventory: Inventory, readings: Mapping[str, DeviceReading]) -> Inventory:
    """The inventory with the measured bytes of our own shares taken off what it calls foreign."""
    nodes = (
        replace(node, devices=tuple(_without_ours(device, readings.get(device.id)) for device in node.devices))
        for node in inventory.nodes
    )
    return replace(inventory, nodes=tuple(nodes))


def _without_ours(device: Device, reading: DeviceReading | None) -> Device:
    foreign = [holding for holding in device.holdings if holding.kind is HoldingKind.FOREIGN]
    if reading is None or not foreign:
        return device
    others = tuple(holding for holding in device.holdings if holding.kind is not HoldingKind.FOREIGN)
    left = max(0, sum(holding.num_bytes for holding in foreign) - sum(reading.shares.values()))
    theirs = Holding(holder=foreign[0].holder, kind=HoldingKind.FOREIGN, num_bytes=left)
    return replace(device, holdings=(*others, theirs) if left else others)
