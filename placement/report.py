"""What a plan puts on each device, byte by byte, for tables and JSON. Drawing them is the caller's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from placement.demand import PartName
from placement.feasible import budget_bytes, limit_bytes, need_of, sum_loads
from placement.inventory import Device, DeviceHealth, DeviceKind, HoldingKind, Inventory
from placement.plan import Placement, Plan


class Verdict(StrEnum):
    PASS = "PASS"  # noqa: S105 - a verdict, no password
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartBytes:
    """`source` as in the estimate, e.g. "safetensors headers"."""

    name: PartName
    num_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One replica, or one holding that is not ours, with its bytes at rest; `parts` is empty for a holding.

    `start_bytes` come on top while the replica starts. `offload_bytes` of its weights lie in host memory instead of
    here and are in no other number. `holding_kind` is None for a replica.
    """

    name: str
    holding_kind: HoldingKind | None
    rest_bytes: int
    start_bytes: int
    parts: tuple[PartBytes, ...]
    offload_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """One device as the plan leaves it.

    `limit_bytes` is what headroom leaves of `total_bytes`. `peak_bytes` includes the holdings and the start of
    `largest_start`, the replica that needs the most more while starting (None when no start needs any more).
    `free_at_peak_bytes` and `_ratio` are what then is free of the whole device; PASS when that keeps the headroom.
    """

    device: str
    uuid: str
    node: str
    kind: DeviceKind
    product: str
    health: DeviceHealth
    cordoned: bool
    total_bytes: int
    limit_bytes: int
    holders: tuple[Holder, ...]
    rest_bytes: int
    largest_start: str | None
    peak_bytes: int
    free_at_peak_bytes: int
    free_at_peak_ratio: float
    verdict: Verdict


def device_report(plan: Plan, inventory: Inventory) -> tuple[DeviceReport, ...]:
    """One report per device of the inventory, in its order, empty devices too."""
    return tuple(_report(device, plan) for device in inventory.devices)


def _report(device: Device, plan: Plan) -> DeviceReport:
    placements = [placement for placement in plan.placements if device.id in placement.devices]
    held = sum(holding.num_bytes for holding in device.holdings)
    load = sum_loads(need_of(placement.estimate) for placement in placements)
    peak = held + load.peak_bytes
    free = device.total_bytes - peak
    return DeviceReport(
        device=device.id,
        uuid=device.uuid,
        node=device.node,
        kind=device.kind,
        product=device.product,
        health=device.health,
        cordoned=device.cordoned,
        total_bytes=device.total_bytes,
        limit_bytes=limit_bytes(device.total_bytes, plan.headroom),
        holders=(*_holdings(device), *(_holder(placement) for placement in placements)),
        rest_bytes=held + load.rest_bytes,
        largest_start=_largest_start(placements),
        peak_bytes=peak,
        free_at_peak_bytes=free,
        free_at_peak_ratio=free / device.total_bytes if device.total_bytes else 0.0,
        verdict=Verdict.PASS if load.peak_bytes <= budget_bytes(device, plan.headroom) else Verdict.FAIL,
    )


def _holdings(device: Device) -> list[Holder]:
    return [
        Holder(name=held.holder, holding_kind=held.kind, rest_bytes=held.num_bytes, start_bytes=0, parts=())
        for held in device.holdings
    ]


def _holder(placement: Placement) -> Holder:
    parts = (part for part in placement.estimate.parts if not part.only_while_starting)
    return Holder(
        name=placement.replica,
        holding_kind=None,
        rest_bytes=placement.estimate.rest_bytes,
        start_bytes=need_of(placement.estimate).start_bytes,
        parts=tuple(PartBytes(name=part.name, num_bytes=part.num_bytes, source=part.source) for part in parts),
        offload_bytes=placement.offload_bytes,
    )


def _largest_start(placements: Sequence[Placement]) -> str | None:
    starting = [placement for placement in placements if need_of(placement.estimate).start_bytes > 0]
    largest = max(starting, key=lambda placement: need_of(placement.estimate).start_bytes, default=None)
    return largest.replica if largest else None
