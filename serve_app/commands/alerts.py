"""`headroom alerts`: what the watch has found on devices, and daily tests and care of models, newest first."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.api.wire import AlertView


@click.command("alerts")
@click.option("--active/--all", "active_only", default=False, help="Only those that still hold, or all that are kept.")
@click.option("--device", help="Of this device only, e.g. head/gpu-0.")
@click.option("--rule", help="Of this rule only, e.g. THERMAL_CRITICAL.")
@click.option("--severity", type=click.Choice(["info", "warning", "critical"]), help="Of this severity only.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@address_option
@json_option
def command(
    *,
    active_only: bool,
    device: str | None,
    rule: str | None,
    severity: str | None,
    limit: int,
    address: str,
    as_json: bool,
) -> None:
    """List alerts of devices and models, newest first: when, what, what was done, and whether it still holds."""
    from serve_app.api.wire import AlertsView
    from serve_app.commands.asking import get

    asked = {"device": device, "rule": rule, "severity": severity, "limit": limit}
    asked["active"] = "true" if active_only else None
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    view = get(AlertsView, address, f"/v1/alerts?{query}")
    if as_json:
        click.echo(json.dumps(view.model_dump()))
        return
    if not view.alerts:
        click.echo("No alerts." if not active_only else "No alert holds now.")
        return
    _draw(view.alerts)


def _draw(alerts: tuple[AlertView, ...]) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    table = Table("fired", "rule", "device", "severity", "action", "took", "cleared", "what", box=None, padding=(0, 1))
    for alert in alerts:
        table.add_row(
            _when(alert.fired_at_s),
            alert.rule,
            alert.device or "fleet",
            alert.severity,
            f"{alert.action} (dry run)" if alert.dry_run else alert.action,
            "-" if alert.acted_at_s is None else f"{alert.acted_at_s - alert.fired_at_s:.1f} s",
            "still holds" if alert.cleared_at_s is None else _when(alert.cleared_at_s),
            alert.message,
        )
    console().print(table)


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s).astimezone().strftime("%m-%d %H:%M:%S")
