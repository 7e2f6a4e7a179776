"""What is right about devices and the shares on them: from what the cluster shows to a finding. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from placement.inventory import DeviceHealth, DeviceKind
from serve_app.api.wire import DeviceView, FleetView, HolderKind, HolderView
from serve_app.fleet.view import keeps_headroom
from serve_app.validate.checks import Finding, judged, too_slow
from serve_app.validate.limits import Limits

_GB: Final = 10**9
_CLASS_40_GB: Final = (38 * _GB, 46 * _GB)
"""Bytes of devices sold as 40 GB, by the driver's own count."""
_RUNNING: Final = ("ready", "draining")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What came of a lease that was taken and given back. `refusal` is the cluster's own sentence, "" when granted."""

    take_s: float
    free_s: float
    refusal: str = ""
    was_listed: bool = False
    is_listed_after: bool = False
    free_status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSeat:
    """One running replica as three pages tell of it. None: the page does not know it."""

    name: str
    devices: tuple[str, ...]
    planned: tuple[str, ...] | None


def judge_telemetry(fleet: FleetView, *, health_s: float, limits: Limits) -> Finding:
    """Every device can be read: its temperature, or at least what its memory holds."""
    problems = [f"{one.id} cannot be read: {_why(one)}." for one in fleet.devices if not _is_read(one)]
    if not fleet.devices:
        problems.append("The cluster shows no device.")
    problems += too_slow("/health", health_s, limits.health_s)
    num_warm = sum(one.temperature_c is not None for one in fleet.devices)
    measured = f"{len(fleet.devices)} devices, {num_warm} with temperature; /health {health_s:.3f} s"
    return judged(problems, measured=measured, limit=f"/health {limits.health_s:g} s")


def judge_share(lent: Lent, limits: Limits) -> Finding:
    limit = f"{limits.memory_op_s:g} s each"
    measured = f"taken {lent.take_s:.3f} s, freed {lent.free_s:.3f} s"
    if lent.refusal:
        return judged([f"No share was given: {lent.refusal}"], measured=f"refused {lent.take_s:.3f} s", limit=limit)
    problems = too_slow("Taking a share", lent.take_s, limits.memory_op_s)
    problems += too_slow("Freeing it", lent.free_s, limits.memory_op_s)
    if not lent.was_listed:
        problems.append("The share was granted and is not listed.")
    if lent.free_status >= 300:  # HTTP's own border between done and not done
        problems.append(f"Giving it back was answered with status {lent.free_status}.")
    if lent.is_listed_after:
        problems.append("The share is still held after it was given back.")
    return judged(problems, measured=measured, limit=limit)


def judge_as_planned(fleet: FleetView, limits: Limits) -> Finding:
    """No share holds more than its plan allows, and every running replica was measured."""
    shares = [(device, one) for device in fleet.devices for one in device.holders if one.planned_bytes > 0]
    problems = [problem for device, share in shares for problem in _over(device, share, limits)]
    for device in fleet.devices:
        problems += _over_class(device, limits)
    over = max((_ratio(share) for _, share in shares if share.measured_bytes is not None), default=0.0)
    measured = f"{len(shares)} shares, the fullest {over:.0%} of its plan"
    return judged(problems, measured=measured, limit=f"{1 + limits.over_plan:.0%} of the plan")


def judge_headroom(fleet: FleetView) -> Finding:
    problems = [
        f"{one.id} has {one.headroom_ratio:.1%} free, expected {fleet.headroom:.0%}."
        for one in fleet.devices
        if not (one.passes and _keeps(one, fleet.headroom))
    ]
    least = min((one.headroom_ratio for one in fleet.devices), default=0.0)
    return judged(problems, measured=f"least {least:.1%} free", limit=f"{fleet.headroom:.0%} free")


def judge_identity(
    seats: Sequence[ReplicaSeat], fleet: FleetView, *, planned_uuids: Mapping[str, str], read_uuids: Mapping[str, str]
) -> Finding:
    """Every replica runs, and holds memory, on the devices of the plan; each device is still the one planned for.

    `planned_uuids` and `read_uuids` by device, as the plan's inventory and the last poll name them.
    """
    problems = [problem for seat in seats for problem in _misplaced(seat, fleet)]
    problems += [
        f"{device} was planned as {planned_uuids[device]} and is read as {uuid}."
        for device, uuid in read_uuids.items()
        if device in planned_uuids and planned_uuids[device] != uuid
    ]
    num_compared = len(planned_uuids.keys() & read_uuids.keys())
    return judged(problems, measured=f"{len(seats)} replicas, {num_compared} device ids compared")


def _misplaced(seat: ReplicaSeat, fleet: FleetView) -> Iterator[str]:
    if seat.planned is None:
        yield f"{seat.name} runs and is in no plan."
    elif set(seat.planned) != set(seat.devices):
        yield f"{seat.name} is planned on {', '.join(seat.planned)} and runs on {', '.join(seat.devices)}."
    holders = {device.id: {one.name: one for one in device.holders} for device in fleet.devices}
    for device in seat.devices:
        holder = holders.get(device, {}).get(seat.name)
        if holder is None or not holder.measured_bytes:
            yield f"{seat.name} holds no memory that can be seen on {device}."


def _over(device: DeviceView, share: HolderView, limits: Limits) -> Iterator[str]:
    allowed = _allowed(share)
    if share.measured_bytes is None:
        if share.kind is HolderKind.REPLICA and share.state in _RUNNING:
            yield f"What {share.name} holds on {device.id} cannot be read."
    elif share.measured_bytes > allowed * (1 + limits.over_plan):
        yield f"{share.name} holds {share.measured_bytes} bytes on {device.id}, {_ratio(share):.0%} of its plan."


def _over_class(device: DeviceView, limits: Limits) -> Iterator[str]:
    low, high = _CLASS_40_GB
    if device.kind is DeviceKind.HOST or not low <= device.total_bytes <= high:
        return
    num_models = len({one.name.partition("#")[0] for one in device.holders if one.kind is HolderKind.REPLICA})
    most = (limits.idle_used, limits.one_model_used, limits.several_models_used)[min(num_models, 2)]
    if device.used_bytes >= most * device.total_bytes:
        used = device.used_bytes / device.total_bytes
        what = f"{device.id}, of the 40 GB class and with {num_models} models,"
        yield f"{what} is {used:.0%} used, expected below {most:.0%}."


def _allowed(share: HolderView) -> int:
    """The peak while it starts, the plan at rest. A share of another kind has no such states."""
    return max(share.planned_bytes, share.peak_bytes) if share.state not in ("", *_RUNNING) else share.planned_bytes


def _ratio(share: HolderView) -> float:
    return (share.measured_bytes or 0) / _allowed(share)


def _keeps(device: DeviceView, headroom: float) -> bool:
    return keeps_headroom(total_bytes=device.total_bytes, used_bytes=device.used_bytes, headroom=headroom)


def _is_read(device: DeviceView) -> bool:
    is_known = device.temperature_c is not None or any(one.measured_bytes is not None for one in device.holders)
    return is_known and device.health is not DeviceHealth.LOST


def _why(device: DeviceView) -> str:
    return "; ".join(device.reasons) or f"it is {device.health.value}, and nothing of it was measured"
