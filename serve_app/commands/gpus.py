"""`headroom gpus`: devices as they are now, every share planned against measured, PASS or FAIL against headroom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.api.wire import FleetView
    from serve_app.config.load import ClusterFile

_POLL_TIMEOUT_S = 5.0
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
    with _screen(is_live=not (once or as_json)) as show:
        for _ in _readings(once=once, duration_s=duration_s, interval_s=interval_s):
            view = _read(address, file)
            passed = passed and all(device.passes for device in view.devices)
            _show(view, as_json=as_json, address=address, show=show)
    ctx.exit(0 if passed else DEVICE_FAILS_EXIT_CODE)


@contextmanager
def _screen(*, is_live: bool) -> Iterator[Callable[[FleetView], None]]:
    """Draws each reading in the place of the one before on a terminal, below it where the output is piped."""
    from rich.live import Live

    from serve_app.commands.fleet_table import draw_fleet, fleet_group
    from serve_app.commands.screen import console

    shown = console()
    if not (is_live and shown.is_terminal):
        yield lambda view: draw_fleet(shown, view)
        return
    with Live(console=shown, auto_refresh=False) as live:
        yield lambda view: live.update(fleet_group(view), refresh=True)


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

    from serve_app.config.load import load_cluster
    from serve_app.config.schema import FleetSection
    from serve_app.config.settings import DeviceChoice
    from serve_app.fleet.device_poller import DevicePoller
    from serve_app.fleet.devices import local_inventory
    from serve_app.fleet.view import machine_view

    cluster = load_cluster(file) if file.exists() else None
    fleet = cluster.settings.fleet if cluster else FleetSection()
    node = platform.node()
    inventory = local_inventory(DeviceChoice(fleet.devices), node)
    poller = DevicePoller(inventory.devices[0].kind, node, known={one.id: one.uuid for one in inventory.devices})
    try:
        polls = poller.poll(_POLL_TIMEOUT_S)
    finally:
        poller.close()
    strategy = _strategy(cluster) if cluster else None
    return machine_view(inventory, headroom=fleet.headroom, polls=polls, strategy=strategy)


def _strategy(cluster: ClusterFile) -> str | None:
    """Of the plan that these models would get here; None where one of them is not made yet."""
    from serve_app.commands.plan import make_plan
    from serve_app.errors import HeadroomError

    try:
        plan, _ = make_plan(cluster)
    except HeadroomError:
        return None
    return plan.strategy.value


def _show(view: FleetView, *, as_json: bool, address: str, show: Callable[[FleetView], None]) -> None:
    if as_json:
        click.echo(view.model_dump_json())
        return
    if view.source == "machine":
        click.echo(f"Nothing answers at {address}; read from this machine's devices, so no share is planned.", err=True)
    show(view)
