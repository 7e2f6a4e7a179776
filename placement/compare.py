"""What is planned against what runs: does each replica sit where the plan put it, within its bytes? (spec A5)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from placement.inventory import Inventory
from placement.plan import Placement, Plan

TOLERANCE = 0.05
"""How far a measured total may lie above its estimate (spec A4: within 5 %)."""


class ShareStatus(StrEnum):
    OK = "ok"
    WRONG_DEVICE = "wrong_device"
    OVER_BYTES = "over_bytes"
    MISSING = "missing"
    """Planned and not measured anywhere."""
    UNPLANNED = "unplanned"
    """Measured, and no replica of the plan."""


@dataclass(frozen=True, slots=True)
class MeasuredShare:
    """What one replica was seen to hold on one device."""

    device_uuid: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareReport:
    """Bytes are per replica over all its devices, planned at rest."""

    replica: str
    status: ShareStatus
    planned_bytes: int
    measured_bytes: int
    message: str


def compare(
    plan: Plan, inventory: Inventory, measured: Mapping[str, Sequence[MeasuredShare]], *, tolerance: float = TOLERANCE
) -> tuple[ShareReport, ...]:
    """One report per planned replica in the plan's order, then one per measured replica the plan does not know.

    `measured` maps a replica to its shares, one per device it was seen on.
    """
    uuids = {device.id: device.uuid for device in inventory.devices}
    planned = [_report(p, uuids, measured.get(p.replica, ()), tolerance) for p in plan.placements]
    known = {placement.replica for placement in plan.placements}
    return (*planned, *(_unplanned(name, measured[name]) for name in sorted(measured) if name not in known))


def _report(
    placement: Placement, uuids: Mapping[str, str], shares: Sequence[MeasuredShare], tolerance: float
) -> ShareReport:
    status, message = _status(placement, uuids, shares, tolerance)
    return ShareReport(
        replica=placement.replica,
        status=status,
        planned_bytes=placement.estimate.rest_bytes * len(placement.devices),
        measured_bytes=sum(share.num_bytes for share in shares),
        message=message,
    )


def _status(
    placement: Placement, uuids: Mapping[str, str], shares: Sequence[MeasuredShare], tolerance: float
) -> tuple[ShareStatus, str]:
    planned = {uuids.get(device, device) for device in placement.devices}
    seen = {share.device_uuid for share in shares}
    if not shares:
        return ShareStatus.MISSING, f"'{placement.replica}' is planned and was seen on no device"
    if seen != planned:
        where = f"seen on {', '.join(sorted(seen))}, planned on {', '.join(sorted(planned))}"
        return ShareStatus.WRONG_DEVICE, f"'{placement.replica}' is {where}"
    most = int(placement.estimate.rest_bytes * (1 + Fraction(str(tolerance))))
    held = {uuid: sum(share.num_bytes for share in shares if share.device_uuid == uuid) for uuid in sorted(seen)}
    over = [f"{num_bytes} bytes on {uuid}" for uuid, num_bytes in held.items() if num_bytes > most]
    if over:
        message = f"'{placement.replica}' holds {', '.join(over)}; planned {placement.estimate.rest_bytes} at rest"
        return ShareStatus.OVER_BYTES, message
    return ShareStatus.OK, ""


def _unplanned(replica: str, shares: Sequence[MeasuredShare]) -> ShareReport:
    return ShareReport(
        replica=replica,
        status=ShareStatus.UNPLANNED,
        planned_bytes=0,
        measured_bytes=sum(share.num_bytes for share in shares),
        message=f"'{replica}' runs and is in no plan",
    )


def numa_local_ratio(placements: Sequence[Placement], inventory: Inventory) -> float | None:
    """Of the replicas over several devices, those whose devices all belong to one NUMA node; None where there are none.

    A device whose NUMA node nobody knows counts as elsewhere (spec A8).
    """
    node_of = {device.id: device.numa_node for device in inventory.devices}
    spread = [{node_of.get(device) for device in one.devices} for one in placements if len(one.devices) > 1]
    return sum(len(nodes) == 1 and None not in nodes for nodes in spread) / len(spread) if spread else None
