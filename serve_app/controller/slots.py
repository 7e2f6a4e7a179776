"""From a plan to the slots replicas may claim, and to the deployments Ray Serve is asked for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from placement.demand import PartName
from placement.inventory import Device, Inventory
from placement.plan import Placement, Plan
from serve_app.config.settings import ModelSettings
from serve_app.controller.claims import Slot, Weights
from serve_app.engines.spec import EngineArguments
from serve_app.fleet.groups import Seat, seats
from serve_app.fleet.names import deployment_name


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDeployment:
    """One Serve application: the replicas of one model on one node, each of which claims a slot of its own.

    `devices` and `share_bytes` are shown in the Ray dashboard beside the deployment.
    """

    name: str
    model: str
    node: str
    num_replicas: int
    devices: tuple[str, ...]
    share_bytes: int


def slots_of(
    plan: Plan, inventory: Inventory, models: Iterable[ModelSettings], weights: Mapping[str, Weights]
) -> tuple[Slot, ...]:
    """One slot per placement, named as it is."""
    all_seats = {seat.device: seat for node in inventory.nodes for seat in seats(node)}
    devices = {device.id: device for device in inventory.devices}
    by_id = {model.id: model for model in models}
    return tuple(
        _slot(placement, all_seats, devices, by_id[placement.model], weights[placement.model])
        for placement in plan.placements
    )


def same_engine(one: Slot, other: Slot) -> bool:
    """Whether an engine in the one slot is what the other asks for; planned bytes are predictions, and may differ."""
    predictions = {"name": one.name, "share_bytes": one.share_bytes, "peak_bytes": one.peak_bytes}
    return one == replace(other, **predictions)  # type: ignore[arg-type]  # names and bytes, by key


def beside(slots: Iterable[Slot], running: Collection[Slot], *, mark: str) -> tuple[Slot, ...]:
    """The slots of a new plan beside those that hold engines now.

    An engine that may go on keeps its slot. A slot whose name is taken by another engine gets `mark` behind it, so
    that the two can stand side by side.
    """
    by_replica = {slot.replica: slot for slot in running}
    taken = {slot.name for slot in running}
    return tuple(_beside(slot, by_replica.get(slot.replica), taken, mark) for slot in slots)


def deployments_of(slots: Iterable[Slot]) -> tuple[EngineDeployment, ...]:
    by_name: dict[str, list[Slot]] = {}
    for slot in slots:
        by_name.setdefault(slot.deployment, []).append(slot)
    return tuple(_deployment(name, group) for name, group in by_name.items())


def arguments_of(model: ModelSettings, *, offload_bytes: int = 0) -> EngineArguments:
    return EngineArguments(
        dtype=model.dtype,
        max_model_len=model.max_model_len,
        max_num_seqs=model.max_num_seqs,
        tensor_parallel=model.tensor_parallel,
        offload_bytes=offload_bytes,
        tool_parser=model.tool_parser,
        reasoning_parser=model.reasoning_parser,
    )


def _beside(slot: Slot, runs: Slot | None, taken: Collection[str], mark: str) -> Slot:
    if runs is not None and same_engine(runs, slot):
        return runs
    return replace(slot, name=f"{slot.replica}.{mark}") if slot.name in taken else slot


def _slot(
    placement: Placement,
    all_seats: Mapping[str, Seat],
    devices: Mapping[str, Device],
    model: ModelSettings,
    weights: Weights,
) -> Slot:
    estimate = placement.estimate
    return Slot(
        name=placement.replica,
        replica=placement.replica,
        model=placement.model,
        deployment=deployment_name(placement.model, placement.node),
        node=placement.node,
        seats=tuple(all_seats[device] for device in placement.devices),
        device_kind=devices[placement.devices[0]].kind,
        device_uuids=tuple(devices[device].uuid for device in placement.devices),
        share_bytes=estimate.rest_bytes,
        peak_bytes=estimate.peak_bytes,
        kv_cache_bytes=estimate.part_bytes(PartName.KV_CACHE),
        arguments=arguments_of(model, offload_bytes=placement.offload_bytes),
        weights=weights,
    )


def _deployment(name: str, slots: list[Slot]) -> EngineDeployment:
    return EngineDeployment(
        name=name,
        model=slots[0].model,
        node=slots[0].node,
        num_replicas=len(slots),
        devices=tuple(sorted({seat.device for slot in slots for seat in slot.seats})),
        share_bytes=sum(slot.share_bytes * len(slot.seats) for slot in slots),
    )
