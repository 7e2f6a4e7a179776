"""Fleet groups: per node one detached placement group, with one whole-device bundle per device.

Only this file creates placement groups, wardens and shares. All calls block; run them off the event loop.
Ray finds a placement group by name inside one namespace: callers are Serve replicas, which all share Serve's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from placement.inventory import Device, DeviceKind, Node
from serve_app.errors import FleetUnready
from serve_app.fleet.actors import DeviceWarden, Share
from serve_app.fleet.names import NAMESPACE, fleet_group_name, warden_name

_READY_TIMEOUT_S = 30.0
_WARDEN_THREADS = 4
"""A probe takes long, and the device is measured meanwhile."""
_GPU_GRAIN = 10_000
"""Ray counts a device in ten-thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where in Ray one device is: a bundle of its node's fleet group, and what the whole bundle holds."""

    device: str
    group: str
    bundle_index: int
    kind: DeviceKind
    total_bytes: int


def seats(node: Node) -> tuple[Seat, ...]:
    return tuple(
        Seat(
            device=device.id,
            group=fleet_group_name(node.name),
            bundle_index=index,
            kind=device.kind,
            total_bytes=device.total_bytes,
        )
        for index, device in enumerate(node.devices)
    )


def ensure_fleet_group(node: Node, *, selector: Mapping[str, str]) -> bool:
    """Create the node's group unless it is there; True when it was made now.

    Raises: FleetUnready when Ray cannot give the bundles.
    """
    name = fleet_group_name(node.name)
    if find_group(name) is not None:
        return False
    bundles = [_whole(device) for device in node.devices]
    group = placement_group(
        bundles,
        strategy="STRICT_PACK",
        name=name,
        lifetime="detached",
        bundle_label_selector=[dict(selector)] * len(bundles),
    )
    if not group.wait(_READY_TIMEOUT_S):
        remove_placement_group(group)
        raise FleetUnready(
            f"Ray could not reserve the devices of node {node.name!r} within {_READY_TIMEOUT_S:.0f} s: "
            f"asked for {bundles}, the cluster has {ray.available_resources()} free.",
            expected="Every device of the node whole, held by nobody else in this Ray cluster.",
            advice="Stop other work on the node, or start Ray with `--memory` as `headroom up` prints it.",
        )
    return True


def find_group(name: str) -> PlacementGroup | None:
    try:
        return get_placement_group(name)
    except ValueError:
        return None


def ensure_warden(seat: Seat, *, headroom: float) -> Any:
    """Actor handle of the device's warden, which holds the headroom; started when it is not there."""
    options = _options(seat, num_bytes=math.ceil(seat.total_bytes * headroom), round_up=True)
    actor = ray.remote(DeviceWarden).options(
        name=warden_name(seat.device),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=_WARDEN_THREADS,
        **options,
    )
    return actor.remote(seat.kind, seat.total_bytes)


def hold_share(seat: Seat, *, num_bytes: int, name: str) -> Any:
    """Start the share of `num_bytes` on the device. It dies with the process that calls this."""
    options = _options(seat, num_bytes=num_bytes, round_up=False)
    return ray.remote(Share).options(name=name, namespace=NAMESPACE, max_concurrency=8, **options).remote()


def _options(seat: Seat, *, num_bytes: int, round_up: bool) -> dict[str, Any]:
    group = find_group(seat.group)
    if group is None:
        raise FleetUnready(
            f"The fleet group {seat.group!r} is gone.",
            expected="One group per node for as long as Headroom runs.",
            advice="Run `headroom down` and `headroom up`.",
        )
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=seat.bundle_index)
    return {"num_cpus": 0, "scheduling_strategy": strategy, **_amount(seat, num_bytes, round_up=round_up)}


def _amount(seat: Seat, num_bytes: int, *, round_up: bool) -> dict[str, Any]:
    """Shares are rounded down and the headroom up, so that a full plan still fits Ray's ten-thousandths."""
    if seat.kind is DeviceKind.HOST:
        return {"memory": num_bytes}
    exact = num_bytes / seat.total_bytes * _GPU_GRAIN
    grains = math.ceil(exact) if round_up else max(1, math.floor(exact))
    return {"num_gpus": grains / _GPU_GRAIN}


def _whole(device: Device) -> dict[str, float]:
    return {"memory": device.total_bytes} if device.kind is DeviceKind.HOST else {"GPU": 1}
