"""From an inventory to the fleet as `headroom gpus` shows it. Pure."""

from __future__ import annotations

from placement.feasible import limit_bytes
from placement.inventory import Device, DeviceHealth, Holding, HoldingKind, Inventory
from serve_app.api.wire import DeviceView, FleetView, HolderKind, HolderView

_KINDS = {
    HoldingKind.FOREIGN: HolderKind.FOREIGN,
    HoldingKind.LEASED: HolderKind.LEASED,
    HoldingKind.RESERVED: HolderKind.RESERVED,
}


def machine_view(inventory: Inventory, *, headroom: float) -> FleetView:
    """Devices without a cluster: every holder is what the driver or the host itself reports."""
    devices = tuple(_device(device, headroom) for device in inventory.devices)
    return FleetView(headroom=headroom, devices=devices, source="machine")


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
