"""`headroom plan`: what would go where on this machine, byte by byte, without starting anything."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import config_file_argument, json_option

if TYPE_CHECKING:
    from placement.inventory import Inventory
    from placement.plan import Plan
    from serve_app.config.load import ClusterFile

REFUSED_EXIT_CODE = 1


@click.command("plan")
@config_file_argument
@json_option
@click.pass_context
def command(ctx: click.Context, *, file: Path, as_json: bool) -> None:
    """Show which model of FILE goes where on this machine, every holder with its bytes, and what is refused and why.

    Reads devices, config.json and safetensors headers; loads and starts nothing. Exit code 0: everything is placed,
    1: something is refused, 2: FILE is wrong.
    """
    from serve_app.config.load import load_cluster

    cluster = load_cluster(file)
    if as_json:
        plan, inventory = make_plan(cluster)
        click.echo(_as_json(plan, inventory))
    else:
        _say_who_else_runs(cluster)
        plan = say_plan(cluster)
    ctx.exit(REFUSED_EXIT_CODE if plan.refusals else 0)


def say_plan(cluster: ClusterFile, *, host_total_bytes: int | None = None) -> Plan:
    """Makes the plan for this machine and prints it. Arguments and errors are those of `make_plan`."""
    from serve_app.commands.plan_table import draw_plan
    from serve_app.commands.screen import console

    plan, inventory = make_plan(cluster, host_total_bytes=host_total_bytes)
    draw_plan(console(), plan, inventory)
    return plan


def make_plan(cluster: ClusterFile, *, host_total_bytes: int | None = None) -> tuple[Plan, Inventory]:
    """The plan for this machine as it is now, and what it was made for.

    `host_total_bytes` narrows the host's memory to plan with; None takes all of it.
    Raises: ConfigError, DeviceUnreadable.
    """
    from placement.check import verify
    from placement.policy import Policy
    from placement.solver import solve
    from serve_app.fleet.devices import local_inventory
    from serve_app.fleet.wanted import wanted

    settings = cluster.settings
    inventory = local_inventory(settings.fleet.devices, platform.node(), host_total_bytes)
    demands = wanted(cluster, kind=inventory.devices[0].kind)
    policy = Policy(headroom=settings.fleet.headroom)
    plan = solve(inventory, demands, policy)
    violations = verify(plan, inventory, demands, policy)
    assert not violations, f"the solver made a plan that its verifier rejects: {violations}"
    return plan, inventory


def _as_json(plan: Plan, inventory: Inventory) -> str:
    from placement.codec import to_json_value
    from placement.report import device_report

    parts = {"plan": plan, "inventory": inventory, "devices": device_report(plan, inventory)}
    return json.dumps({name: to_json_value(value) for name, value in parts.items()}, indent=2)


def _say_who_else_runs(cluster: ClusterFile) -> None:
    """A running cluster's engines hold memory of this machine; the reader must know that they are counted."""
    import socket

    try:
        socket.create_connection((cluster.host, cluster.port), timeout=0.2).close()
    except OSError:
        return
    note = f"Something listens on {cluster.host}:{cluster.port}. If that is a cluster of yours, its engines are among"
    click.echo(f"{note} the other processes below; `headroom gpus` shows its own plan.", err=True)
