"""From a plan to the slots replicas may claim, and to the deployments Ray Serve is asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from placement.demand import PartName
from placement.inventory import Device, Inventory
from placement.plan import Placement, Plan
from serve_app.config.settings import ModelSettings
from serve_app.controller.claims import Slot
from serve_app.engines.spec import EngineSpec
from serve_app.fleet.groups import Seat, seats
from serve_app.fleet.names import deployment_name


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDeployment:
    """One Serve application: the replicas of one model on one node.

    `devices` and `share_bytes` are shown in the Ray dashboard beside the deployment.
    """

    spec: EngineSpec
    node: str
    num_replicas: int
    devices: tuple[str, ...]
    share_bytes: int


def slots_of(plan: Plan, inventory: Inventory) -> tuple[Slot, ...]:
    all_seats = {seat.device: seat for node in inventory.nodes for seat in seats(node)}
    devices = {device.id: device for device in inventory.devices}
    return tuple(_slot(placement, all_seats, devices) for placement in plan.placements)


def deployments_of(slots: Sequence[Slot], models: Sequence[ModelSettings]) -> tuple[EngineDeployment, ...]:
    by_model = {model.id: model for model in models}
    by_name: dict[str, list[Slot]] = {}
    for slot in slots:
        by_name.setdefault(slot.deployment, []).append(slot)
    return tuple(_deployment(name, group, by_model[group[0].model]) for name, group in by_name.items())


def _slot(placement: Placement, all_seats: Mapping[str, Seat], devices: Mapping[str, Device]) -> Slot:
    estimate = placement.estimate
    first = devices[placement.devices[0]]
    return Slot(
        name=placement.replica,
        model=placement.model,
        deployment=deployment_name(placement.model, placement.node),
        node=placement.node,
        seats=tuple(all_seats[device] for device in placement.devices),
        device_kind=first.kind,
        device_uuids=tuple(devices[device].uuid for device in placement.devices),
        share_bytes=estimate.rest_bytes,
        peak_bytes=estimate.peak_bytes,
        kv_cache_bytes=estimate.part_bytes(PartName.KV_CACHE),
    )


def _deployment(name: str, slots: Sequence[Slot], model: ModelSettings) -> EngineDeployment:
    spec = EngineSpec(
        model=model.id,
        deployment=name,
        dtype=model.dtype,
        max_model_len=model.max_model_len,
        max_num_seqs=model.max_num_seqs,
        tensor_parallel=model.tensor_parallel,
    )
    devices = sorted({seat.device for slot in slots for seat in slot.seats})
    return EngineDeployment(
        spec=spec,
        node=slots[0].node,
        num_replicas=len(slots),
        devices=tuple(devices),
        share_bytes=sum(slot.share_bytes * len(slot.seats) for slot in slots),
    )
