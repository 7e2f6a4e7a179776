"""What the controller shows of itself, as plain values for JSON and for the gateway. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from placement.inventory import Device, DeviceHealth
from placement.plan import RefusalKind
from placement.signals import Poll
from serve_app.api.wire import DeviceView, FleetView, HolderKind, HolderView
from serve_app.config.settings import ModelSettings, Settings
from serve_app.controller.bringup_state import BringupState, Phase
from serve_app.controller.claims import Slot, SlotState
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.lifecycle import Lifecycle, RestKind
from serve_app.fleet.actors import DeviceReading
from serve_app.fleet.process_memory import LEASE_MARK
from serve_app.fleet.view import keeps_headroom, with_signals
from serve_app.gateway.routing_table import Backend


def backends(ledger: Ledger, fractions: Mapping[str, float], unusable: Collection[str]) -> tuple[Backend, ...]:
    """Every replica that takes requests, with the weights it should have. `fractions`: of its requests, the part a
    throttled device may have.

    What is on an `unusable` device is asked only while its model runs nowhere else.
    """
    ready = [
        _backend(tenure, ledger.slots[tenure.slot], fractions)
        for tenure in ledger.tenures.values()
        if tenure.serves and ledger.is_true(tenure)
    ]
    good = {backend.model for backend in ready if backend.device not in unusable}
    return tuple(backend for backend in ready if backend.model not in good or backend.device not in unusable)


def refusals(state: BringupState, ledger: Ledger, lifecycle: Lifecycle) -> dict[str, str]:
    """Models without a planned slot and why; a model that is planned and fails may yet come up."""
    planned = {slot.model for slot in ledger.slots.values()}
    problems = {model: reason for model, reason in state.problems.items() if model not in planned}
    rests = {model: f"'{model}' was {rest.reason}." for model, rest in lifecycle.resting.items()}
    return problems | rests


def wakeable(state: BringupState, ledger: Ledger, lifecycle: Lifecycle) -> tuple[str, ...]:
    """Models that a request may bring: those asleep, and those that only wait for room."""
    asleep = {model for model, rest in lifecycle.resting.items() if rest.kind is RestKind.ASLEEP}
    refusals = state.plan.refusals if state.plan is not None else ()
    blocked = {refusal.model for refusal in refusals if refusal.kind is RefusalKind.BLOCKED}
    planned = {slot.model for slot in ledger.slots.values()}
    return tuple(sorted(asleep | (blocked - planned)))


def health(state: BringupState, ledger: Ledger, lifecycle: Lifecycle, settings: Settings) -> dict[str, Any]:
    """`ok` when every model that does not rest answers, `degraded` when some do, else `starting` or `down`."""
    models = {model.id: _model_health(model, state, ledger, lifecycle) for model in settings.models}
    num_ready = sum(one["status"] == "ready" for one in models.values())
    num_resting = sum(model in lifecycle.resting for model in models)
    if num_ready + num_resting == len(models):
        status = "ok"
    elif num_ready:
        status = "degraded"
    else:
        status = "down" if all(one["status"] == "refused" for one in models.values()) else "starting"
    return {"status": status, "controller": state.phase.value, "reason": state.message, "models": models}


def models_info(
    state: BringupState,
    ledger: Ledger,
    lifecycle: Lifecycle,
    settings: Settings,
    readings: Mapping[str, DeviceReading],
    *,
    now_s: float,
) -> dict[str, Any]:
    rows = []
    for model in settings.models:
        rest = lifecycle.resting.get(model.id)
        row = _model_info(model, state, ledger, readings) | {
            "resting": rest.kind.value if rest else None,
            "pinned": lifecycle.is_pinned(model),
            "idle_s": round(lifecycle.idle_s(model.id, now_s=now_s), 1),
        }
        rows.append(row | {"problem": rest.reason} if rest else row)
    return {"models": rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of a device beside its bytes. `poll` is its last one; `reasons` why it is not simply healthy."""

    poll: Poll | None
    health: DeviceHealth
    is_cordoned: bool
    reasons: tuple[str, ...]
    forecast: str = ""
    num_leases: int = 0
    leased_bytes: int = 0
    """What the pooled share of all leases holds."""
    guests: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each job there, and of each candidate of a rollout that does not run yet."""


def fleet(
    state: BringupState,
    ledger: Ledger,
    settings: Settings,
    readings: Mapping[str, DeviceReading],
    facts: Callable[[Device], DeviceFacts],
) -> dict[str, Any]:
    """`FleetView` as JSON values: per device every share, planned against measured."""
    devices = state.inventory.devices if state.inventory is not None else ()
    headroom = settings.fleet.headroom
    view = FleetView(
        headroom=headroom,
        strategy=state.plan.strategy.value if state.plan is not None else None,
        devices=tuple(
            _device_view(device, ledger, readings.get(device.id), headroom, facts(device)) for device in devices
        ),
    )
    return view.model_dump(mode="json")


def misplaced(ledger: Ledger, readings: Mapping[str, DeviceReading]) -> tuple[tuple[Tenure, str], ...]:
    """Tenures that hold bytes on a device they were not planned on, each with that device."""
    found = []
    for tenure in ledger.tenures.values():
        planned = {seat.device for seat in ledger.slots[tenure.slot].seats}
        for device, reading in readings.items():
            if device not in planned and reading.shares.get(tenure.marker, 0) > 0:
                found.append((tenure, device))
    return tuple(found)


def _backend(tenure: Tenure, slot: Slot, fractions: Mapping[str, float]) -> Backend:
    assert tenure.report is not None
    fraction = min((fractions.get(seat.device, 1.0) for seat in slot.seats), default=1.0)
    return Backend(
        replica=f"{slot.name}:{tenure.epoch}",
        model=slot.model,
        deployment=slot.deployment,
        url=tenure.report.url,
        weights_version=slot.weights.version,
        checkpoint_step=slot.weights.step,
        device=slot.seats[0].device,
        max_num_seqs=slot.arguments.max_num_seqs,
        max_model_len=slot.arguments.max_model_len,
        max_in_flight=max(1, int(slot.arguments.max_num_seqs * fraction)) if fraction < 1 else None,
    )


def _tenures_of(model: str, ledger: Ledger) -> list[Tenure]:
    return [tenure for tenure in ledger.tenures.values() if ledger.slots[tenure.slot].model == model]


def _model_health(model: ModelSettings, state: BringupState, ledger: Ledger, lifecycle: Lifecycle) -> dict[str, Any]:
    tenures = _tenures_of(model.id, ledger)
    num_ready = sum(tenure.serves for tenure in tenures)
    rest = lifecycle.resting.get(model.id)
    if rest is not None:
        return {"status": rest.kind.value, "reason": rest.reason, "num_ready": num_ready, "num_wanted": 0}
    if num_ready:
        status, reason = "ready", ""
    elif model.id in state.problems:
        refused = model.id in refusals(state, ledger, lifecycle)
        status, reason = "refused" if refused else "failing", state.problems[model.id]
    else:
        waits_for = (
            tenures[0].state.value if tenures else ("a replica" if state.phase is Phase.SERVING else state.phase.value)
        )
        status, reason = "starting", waits_for
    return {"status": status, "reason": reason, "num_ready": num_ready, "num_wanted": model.num_replicas}


def _model_info(
    model: ModelSettings, state: BringupState, ledger: Ledger, readings: Mapping[str, DeviceReading]
) -> dict[str, Any]:
    """Row B9: loaded, model id, checkpoint step, weights version, bytes in use (None before a reading)."""
    tenures = _tenures_of(model.id, ledger)
    serving = [tenure for tenure in tenures if tenure.serves]
    first = next(iter(serving or tenures), None)
    weights = ledger.slots[first.slot].weights if first else state.weights.get(model.id)
    replicas = [_replica_info(tenure, ledger.slots[tenure.slot], readings) for tenure in tenures]
    measured = [replica["memory_bytes"] for replica in replicas if replica["memory_bytes"] is not None]
    return {
        "id": model.id,
        "loaded": bool(serving),
        "checkpoint": weights.path.name if weights else None,
        "checkpoint_step": weights.step if weights else None,
        "weights_version": weights.version if weights else None,
        "memory_bytes": sum(measured) if measured else None,
        "max_model_len": model.max_model_len,
        "problem": state.problems.get(model.id),
        "replicas": replicas,
    }


def _replica_info(tenure: Tenure, slot: Slot, readings: Mapping[str, DeviceReading]) -> dict[str, Any]:
    return {
        "name": slot.name,
        "deployment": slot.deployment,
        "state": tenure.state.value,
        "devices": [seat.device for seat in slot.seats],
        "planned_bytes": slot.share_bytes * len(slot.seats),
        "memory_bytes": _measured(tenure, slot, readings),
        "load_s": round(tenure.report.load_s, 3) if tenure.report else None,
    }


def _measured(tenure: Tenure, slot: Slot, readings: Mapping[str, DeviceReading]) -> int | None:
    """Bytes over all devices of the replica: from the last reading, else what it reported itself."""
    shares = [readings[seat.device].shares.get(tenure.marker) for seat in slot.seats if seat.device in readings]
    known = [num_bytes for num_bytes in shares if num_bytes is not None]
    if known:
        return sum(known)
    return tenure.report.measured_bytes * len(slot.seats) if tenure.report else None


def _device_view(
    device: Device, ledger: Ledger, reading: DeviceReading | None, headroom: float, facts: DeviceFacts
) -> DeviceView:
    used = reading.used_bytes if reading else device.total_bytes
    shares = [_share_view(slot, ledger.tenures.get(slot.name), reading) for slot in _slots_on(device, ledger)]
    if facts.leased_bytes:
        shares.append(_leases_view(facts, reading))
    running = {slot.name for slot in _slots_on(device, ledger)}
    shares += [_guest_view(name, size, reading) for name, size in facts.guests.items() if name not in running]
    unplanned = max(0, used - sum(share.measured_bytes or 0 for share in shares)) if reading else 0
    others = HolderView(
        name="everything else", kind=HolderKind.FOREIGN, planned_bytes=0, measured_bytes=unplanned, peak_bytes=0
    )
    free = max(0, device.total_bytes - used)
    view = DeviceView(
        id=device.id,
        node=device.node,
        kind=device.kind,
        product=device.product,
        total_bytes=device.total_bytes,
        used_bytes=used,
        free_bytes=free,
        headroom_ratio=free / device.total_bytes if device.total_bytes else 0.0,
        # A device that does not answer fails: unknown is never fine.
        passes=reading is not None
        and keeps_headroom(total_bytes=device.total_bytes, used_bytes=used, headroom=headroom),
        health=facts.health,
        cordoned=facts.is_cordoned,
        reasons=facts.reasons,
        forecast=facts.forecast,
        holders=(*shares, others) if reading else tuple(shares),
    )
    return with_signals(view, facts.poll)


def _leases_view(facts: DeviceFacts, reading: DeviceReading | None) -> HolderView:
    """All leases of the device as one holder; what their programs have is measured where `lease run` started them."""
    marked = [size for marker, size in reading.shares.items() if marker.startswith(LEASE_MARK)] if reading else []
    return HolderView(
        name=f"{facts.num_leases} leases",
        kind=HolderKind.LEASED,
        planned_bytes=facts.leased_bytes,
        measured_bytes=sum(marked) if reading else None,
        peak_bytes=facts.leased_bytes,
    )


def _guest_view(name: str, num_bytes: int, reading: DeviceReading | None) -> HolderView:
    """A job, by the mark its processes carry."""
    return HolderView(
        name=name,
        kind=HolderKind.JOB,
        planned_bytes=num_bytes,
        measured_bytes=reading.shares.get(name, 0) if reading else None,
        peak_bytes=num_bytes,
    )


def _slots_on(device: Device, ledger: Ledger) -> list[Slot]:
    return [slot for slot in ledger.slots.values() if any(seat.device == device.id for seat in slot.seats)]


def _share_view(slot: Slot, tenure: Tenure | None, reading: DeviceReading | None) -> HolderView:
    measured = reading.shares.get(tenure.marker) if reading is not None and tenure is not None else None
    return HolderView(
        name=slot.name,
        kind=HolderKind.REPLICA,
        planned_bytes=slot.share_bytes,
        measured_bytes=measured,
        peak_bytes=slot.peak_bytes,
        state=tenure.state.value if tenure else SlotState.FREE.value,
    )
