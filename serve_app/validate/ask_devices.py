"""Asks for what the checks of devices judge."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any, Final

from serve_app.api.wire import FleetView
from serve_app.validate.asker import Asker
from serve_app.validate.checks import Finding, Status, skipped
from serve_app.validate.devices import (
    Lent,
    ReplicaSeat,
    judge_as_planned,
    judge_headroom,
    judge_identity,
    judge_share,
    judge_telemetry,
)
from serve_app.validate.limits import Limits
from serve_app.validate.metrics import metric_values
from tracing import names

FLEET: Final = "/v1/fleet"
LEASES: Final = "/v1/leases"
CLIENT: Final = "headroom-validate"
_SHARE_MB: Final = 16
_TTL_S: Final = 30.0
"""Should this program die in between, the share is free again after that."""
_TIMES: Final = 3
"""A single time says more of the machine's moment than of the cluster; the median of three is judged."""
_NO_ROOM: Final = frozenset({"no_room", "too_large", "preempting"})
"""Reasons for which a cluster that is full, or lends nothing, refuses in order."""
_READY: Final = "ready"
_NO_HURRY: Final = Limits(memory_op_s=float("inf"))


async def telemetry(asker: Asker, limits: Limits) -> Finding:
    fleet = await asker.page(FleetView, FLEET)
    times_s = [(await asker.ask("GET", "/health")).took_s for _ in range(_TIMES)]
    return judge_telemetry(fleet, health_s=median(times_s), limits=limits)


async def share(asker: Asker, limits: Limits) -> Finding:
    lent: list[Lent] = []
    for _ in range(_TIMES):
        one = await _lend(asker)
        if isinstance(one, Finding):
            return one
        lent.append(one)
    take_s, free_s = median(one.take_s for one in lent), median(one.free_s for one in lent)
    worst = min(lent, key=lambda one: judge_share(one, _NO_HURRY).status is Status.PASS)
    return judge_share(replace(worst, take_s=take_s, free_s=free_s), limits)


async def as_planned(asker: Asker, limits: Limits) -> Finding:
    return judge_as_planned(await asker.page(FleetView, FLEET), limits)


async def headroom(asker: Asker) -> Finding:
    return judge_headroom(await asker.page(FleetView, FLEET))


async def identity(asker: Asker) -> Finding:
    plan, info = await asker.values("/v1/plan"), await asker.values("/models/info")
    fleet = await asker.page(FleetView, FLEET)
    read = await metric_values(asker, names.DEVICE_UP.name)
    return judge_identity(
        _seats(plan, info),
        fleet,
        planned_uuids={one["id"]: one["uuid"] for one in plan["inventory"]["devices"]},
        read_uuids={labels["device"]: labels["uuid"] for labels, _ in read},
    )


def _seats(plan: dict[str, Any], info: dict[str, Any]) -> list[ReplicaSeat]:
    planned = {one["replica"]: tuple(one["devices"]) for one in plan["plan"]["placements"]}
    return [
        ReplicaSeat(name=one["name"], devices=tuple(one["devices"]), planned=planned.get(_planned_name(one["name"])))
        for model in info["models"]
        for one in model.get("replicas", ())
        if one["state"] == _READY
    ]


def _planned_name(name: str) -> str:
    """Of a replica that stood beside the one it took over from: `mini#0.x` was planned as `mini#0`."""
    model, mark, ordinal = name.rpartition("#")
    return f"{model}{mark}{ordinal.partition('.')[0]}" if mark else name


async def _lend(asker: Asker) -> Lent | Finding:
    """Takes one share, looks for it, gives it back, looks again. SKIP where the cluster is full."""
    asked = {"client": CLIENT, "model_name": "validate", "vram_estimate_mb": _SHARE_MB, "ttl_seconds": _TTL_S}
    taken = await asker.ask("POST", LEASES, body=asked)
    told = taken.json()
    if not isinstance(told, dict) or not told.get("granted"):
        reason = told.get("reason") if isinstance(told, dict) else None
        if reason in _NO_ROOM:
            return skipped(f"There is no room to lend: {taken.message}")
        return Lent(take_s=taken.took_s, free_s=0.0, refusal=taken.message or f"status {taken.status}")
    lease_id = told["lease_id"]
    was_listed = await _is_held(asker, lease_id)
    freed = await asker.ask("DELETE", f"{LEASES}/{lease_id}", body={"client": CLIENT, "epoch": told["epoch"]})
    return Lent(
        take_s=taken.took_s,
        free_s=freed.took_s,
        was_listed=was_listed,
        is_listed_after=await _is_held(asker, lease_id),
        free_status=freed.status,
    )


async def _is_held(asker: Asker, lease_id: str) -> bool:
    leases = (await asker.values(f"{LEASES}?client={CLIENT}"))["leases"]
    return any(one["lease_id"] == lease_id for one in leases)
