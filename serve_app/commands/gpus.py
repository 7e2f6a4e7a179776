"""`headroom gpus`: devices as they are now, every share planned against measured, PASS or FAIL against headroom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.api.wire import FleetView

DEVICE_FAILS_EXIT_CODE = 1


@click.command("gpus")
@click.option("--once", is_flag=True, help="Show one reading and end.")
@click.option(
    "--duration", "duration_s", type=click.FloatRange(min=0), help="Seconds to go on; for ever when left out."
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.05),
    default=5.0,
    show_default=True,
    help="Seconds from one reading to the next.",
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=Path("cluster.yaml"),
    show_default=True,
    help="Names headroom and device kind when no cluster runs; defaults apply when there is no such file.",
)
@address_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    once: bool,
    duration_s: float | None,
    interval_s: float,
    file: Path,
    address: str,
    as_json: bool,
) -> None:
    """Show devices, shares planned and measured, and their headroom.

    Exit code 1 when any device failed in any reading. With --json, one line of JSON for each reading.
    """
    passed = True
    for _ in _readings(once=once, duration_s=duration_s, interval_s=interval_s):
        view = _read(address, file)
        passed = passed and all(device.passes for device in view.devices)
        _show(view, as_json=as_json, address=address)
    ctx.exit(0 if passed else DEVICE_FAILS_EXIT_CODE)


def _readings(*, once: bool, duration_s: float | None, interval_s: float) -> Iterator[None]:
    """One turn per reading, paced from the start so that slow readings do not add up."""
    began_s = time.monotonic()
    due_s = began_s
    while True:
        yield
        due_s = max(due_s + interval_s, time.monotonic())
        if once or (duration_s is not None and due_s - began_s > duration_s):
            return
        time.sleep(max(0.0, due_s - time.monotonic()))


def _read(address: str, file: Path) -> FleetView:
    """The cluster's answer, or this machine's own devices when nothing answers."""
    from serve_app.api.wire import FleetView
    from serve_app.commands.asking import get
    from serve_app.errors import NotRunning

    try:
        return get(FleetView, address, "/admin/fleet")
    except NotRunning:
        return _read_machine(file)


def _read_machine(file: Path) -> FleetView:
    import platform

    from serve_app.config.load import load_settings
    from serve_app.config.schema import FleetSection
    from serve_app.config.settings import DeviceChoice
    from serve_app.fleet.devices import local_inventory
    from serve_app.fleet.view import machine_view

    fleet = load_settings(file).fleet if file.exists() else FleetSection()
    inventory = local_inventory(DeviceChoice(fleet.devices), platform.node())
    return machine_view(inventory, headroom=fleet.headroom)


def _show(view: FleetView, *, as_json: bool, address: str) -> None:
    if as_json:
        click.echo(view.model_dump_json())
        return
    from serve_app.commands.fleet_table import draw_fleet
    from serve_app.commands.screen import console

    if view.source == "machine":
        click.echo(f"Nothing answers at {address}; read from this machine's devices, so no share is planned.", err=True)
    draw_fleet(console(), view)
