"""From an inventory to the fleet as `headroom gpus` shows it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from placement.feasible import limit_bytes
from placement.inventory import Device, DeviceHealth, Holding, HoldingKind, Inventory
from placement.signals import Poll, Silence
from serve_app.api.wire import DeviceView, FleetView, HolderKind, HolderView

_KINDS = {
    HoldingKind.FOREIGN: HolderKind.FOREIGN,
    HoldingKind.LEASED: HolderKind.LEASED,
    HoldingKind.JOB: HolderKind.JOB,
    HoldingKind.RESERVED: HolderKind.RESERVED,
}


def machine_view(
    inventory: Inventory, *, headroom: float, polls: Iterable[Poll] = (), strategy: str | None = None
) -> FleetView:
    """Devices without a cluster: every holder is what the driver or the host itself reports."""
    signals = {poll.device: poll for poll in polls}
    devices = tuple(with_signals(_device(device, headroom), signals.get(device.id)) for device in inventory.devices)
    return FleetView(headroom=headroom, devices=devices, source="machine", strategy=strategy)


def with_signals(view: DeviceView, poll: Poll | None) -> DeviceView:
    """The device with what its last poll read; a silent one says why."""
    if isinstance(poll, Silence):
        return view.model_copy(update={"reasons": (*view.reasons, poll.reason)})
    if poll is None:
        return view
    read = {name: getattr(poll, name) for name in _SIGNALS}
    return view.model_copy(update={**read, "product": poll.product})


_SIGNALS = ("temperature_c", "slowdown_c", "power_w", "power_limit_w", "utilization")


def keeps_headroom(*, total_bytes: int, used_bytes: int, headroom: float) -> bool:
    """Whether at least `headroom` of the device is free, to the byte. A device without bytes keeps nothing."""
    return total_bytes > 0 and used_bytes <= limit_bytes(total_bytes, headroom)


def _device(device: Device, headroom: float) -> DeviceView:
    used = sum(holding.num_bytes for holding in device.holdings)
    free = max(0, device.total_bytes - used)
    kept = keeps_headroom(total_bytes=device.total_bytes, used_bytes=used, headroom=headroom)
    return DeviceView(
        id=device.id,
        node=device.node,
        kind=device.kind,
        product=device.product,
        total_bytes=device.total_bytes,
        used_bytes=used,
        free_bytes=free,
        headroom_ratio=free / device.total_bytes if device.total_bytes else 0.0,
        passes=kept and device.health is not DeviceHealth.LOST,
        health=device.health,
        holders=tuple(_holder(holding) for holding in device.holdings),
    )


def _holder(holding: Holding) -> HolderView:
    planned = 0 if holding.kind is HoldingKind.FOREIGN else holding.num_bytes
    return HolderView(
        name=holding.holder,
        kind=_KINDS[holding.kind],
        planned_bytes=planned,
        measured_bytes=holding.num_bytes,
        peak_bytes=planned,
    )
