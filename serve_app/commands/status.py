"""`headroom status`: health, models and the weights they serve, asked of the running cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from serve_app.api.wire import HealthView, ModelsInfoView

NOT_WELL_EXIT_CODE = 1


@click.command("status")
@address_option
@json_option
@click.pass_context
def command(ctx: click.Context, *, address: str, as_json: bool) -> None:
    """Show health, models and weights of the running cluster.

    Exit code 0: every model answers, 1: not all do, 3: nothing answers at the address.
    """
    from serve_app.api.wire import HealthView, ModelsInfoView
    from serve_app.commands.asking import get
    from serve_app.commands.screen import console

    health = get(HealthView, address, "/health")
    info = get(ModelsInfoView, address, "/models/info")
    if as_json:
        click.echo(json.dumps({"health": health.model_dump(), "models": info.model_dump()["models"]}))
    else:
        reason = f": {health.reason}" if health.reason else ""
        click.echo(f"{address} is {health.status}{reason}")
        console().print(_table(health, info))
    ctx.exit(0 if health.status == "ok" else NOT_WELL_EXIT_CODE)


def _table(health: HealthView, info: ModelsInfoView) -> Table:
    from rich.table import Table

    from placement.units import gib

    table = Table("model", "status", "replicas", "weights", "step", "memory", "reason", box=None, padding=(0, 2, 0, 2))
    details = {model.id: model for model in info.models}
    for name, model in health.models.items():
        detail = details.get(name)
        step = "-" if detail is None or detail.checkpoint_step is None else str(detail.checkpoint_step)
        memory = "-" if detail is None or detail.memory_bytes is None else gib(detail.memory_bytes)
        weights = (detail.weights_version if detail else None) or "-"
        replicas = f"{model.num_ready}/{model.num_wanted}"
        table.add_row(name, model.status, replicas, weights, step, memory, model.reason or "-")
    return table
