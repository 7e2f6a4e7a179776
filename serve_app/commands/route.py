"""`headroom route`: where requests go, and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.api.wire import RouteView


@click.group("route")
def command() -> None:
    """Where requests go, and why."""


@command.command("explain")
@click.argument("request_json", metavar="REQUEST")
@click.option("--mode", help="Value of the header x-headroom-mode.")
@click.option("--weights-version", help="Value of the header x-headroom-weights-version.")
@click.option("--no-downshift", is_flag=True, help="As with the header x-headroom-downshift: no.")
@address_option
@json_option
def explain(
    *, request_json: str, mode: str | None, weights_version: str | None, no_downshift: bool, address: str, as_json: bool
) -> None:
    """Show where REQUEST would go now and why, without sending it to an engine.

    REQUEST is the JSON body of a chat or completion request, e.g.
    '{"model": "fast", "messages": [{"role": "user", "content": "2+2"}]}'.
    """
    from serve_app.api.wire import RouteView
    from serve_app.commands.asking import post

    asked = {
        "request": _parsed(request_json),
        "mode": mode,
        "weights_version": weights_version,
        "downshift": not no_downshift,
    }
    view = post(RouteView, address, "/admin/route/explain", asked)
    if as_json:
        click.echo(json.dumps(view.model_dump()))
    else:
        _draw(view)


def _parsed(text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"is not valid JSON: {error}", param_hint="REQUEST") from error
    if not isinstance(request, dict):
        raise click.BadParameter("must be a JSON object, as a request's body is", param_hint="REQUEST")
    return request


def _draw(view: RouteView) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    click.echo(
        f"mode {view.mode}, model {view.model} ({view.outcome}), weights {view.weights_version}, cache {view.cache}"
    )
    steps = Table("mode", "model", "", box=None, padding=(0, 1))
    for step in view.steps:
        steps.add_row(step.mode, step.model, "well" if step.why_not is None else f"passed over: {step.why_not}")
    replicas = Table("rank", "replica", "deployment", "in flight", "breaker", "", box=None, padding=(0, 1))
    for one in sorted(view.replicas, key=lambda one: (one.rank is None, one.rank)):
        rank = "–" if one.rank is None else str(one.rank)
        load = f"{one.in_flight} of {one.max_num_seqs}"
        replicas.add_row(rank, one.replica, one.deployment, load, one.breaker, one.passed_over or "first choice")
    console().print(steps)
    console().print(replicas)
