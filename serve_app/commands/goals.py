"""`headroom goals`: set a target for a model, see what becomes of it, or give it up."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote, urlencode

import click

from serve_app.commands.lease import Seconds
from serve_app.commands.options import address_option, json_option

PATH = "/v1/goals"
goal_argument = click.argument("goal_id", metavar="GOAL")


@click.group("goals")
def command() -> None:
    """Set targets for models: jobs are submitted until each is met or hopeless."""


@command.command("add")
@click.option("--model", required=True, help="The model that is trained on.")
@click.option("--metric", type=click.Choice(["accuracy", "loss", "reward"]), required=True, help="What is measured.")
@click.option("--target", type=float, required=True, help="Accuracy from 0 to 1; a loss is met from above.")
@click.option("--deadline", "deadline_s", type=Seconds(), default="1d", show_default=True, help="From now, e.g. 12h.")
@click.option("--priority", type=int, default=0, show_default=True, help="Of its jobs; the larger goes first.")
@click.option("--min-gain", type=float, help="A job that moves the metric so far gained; left out: beyond noise.")
@address_option
@json_option
def add(
    *,
    model: str,
    metric: str,
    target: float,
    deadline_s: float,
    priority: int,
    min_gain: float | None,
    address: str,
    as_json: bool,
) -> None:
    """Set a target and print the id of the goal."""
    wanted = {"model": model, "metric": metric, "target": target, "deadline_in_s": deadline_s, "priority": priority}
    _show(_call("POST", address, PATH, {**wanted, "min_gain": min_gain}), as_json)


@command.command("list")
@click.option("--state", type=click.Choice(["open", "met", "hopeless", "cancelled"]), help="Only those.")
@click.option("--model", help="Of this model only.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@address_option
@json_option
def list_(*, state: str | None, model: str | None, limit: int, address: str, as_json: bool) -> None:
    """List goals, newest first."""
    query = urlencode({k: v for k, v in (("state", state), ("model", model), ("limit", limit)) if v is not None})
    told = _call("GET", address, f"{PATH}?{query}")
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    if not told["goals"]:
        click.echo("No goals.")
        return
    from rich.table import Table

    from serve_app.commands.screen import console

    table = Table("GOAL", "MODEL", "TARGET", "LEFT", "JOBS", "STATE", "WHY", box=None, pad_edge=False)
    for goal in told["goals"]:
        table.add_row(
            goal["id"], goal["model"], _target(goal), _left(goal), str(len(goal["jobs"])), goal["state"], goal["why"]
        )
    console().print(table)


@command.command("show")
@goal_argument
@address_option
@json_option
def show(goal_id: str, address: str, as_json: bool) -> None:
    """Show one goal and the jobs it became."""
    _show(_call("GET", address, f"{PATH}/{quote(goal_id, safe='')}"), as_json)


@command.command("cancel")
@goal_argument
@address_option
@json_option
def cancel(goal_id: str, address: str, as_json: bool) -> None:
    """Give a goal up; its job that is under way is cancelled too."""
    _show(_call("DELETE", address, f"{PATH}/{quote(goal_id, safe='')}"), as_json)


def _call(method: str, address: str, path: str, body: object = None) -> dict[str, Any]:
    from serve_app.commands.asking import call

    return call(method, address, path, body=body)


def _show(goal: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(goal, indent=2))
        return
    click.echo(f"{goal['id']}: {goal['model']}, {_target(goal)}, {_left(goal)} left, priority {goal['priority']}")
    click.echo(f"{goal['state']}{': ' + goal['why'] if goal['why'] else ''}")
    for job in goal["jobs"]:
        click.echo(f"  job {job['job_id']}: {job['strategy']}, {job['state']}")


def _target(goal: dict[str, Any]) -> str:
    return f"{goal['metric']} {'≤' if goal['metric'] == 'loss' else '≥'} {goal['target']:g}"


def _left(goal: dict[str, Any]) -> str:
    left_s = goal["deadline_s"] - time.time()
    return f"{left_s / 3600:.1f} h" if goal["state"] == "open" and left_s > 0 else "–"
