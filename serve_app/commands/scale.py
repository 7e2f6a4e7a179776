"""`headroom scale`: how many of each there are, between which limits, and what was decided; or one count by hand."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.scaling.wire import DecisionView, ScalingView, TargetView

_WISH = re.compile(r"([^=]+)=(\d{1,3})")
_SCALE_TIMEOUT_S = 300.0
"""Longer than the controller gives one change."""
_NOT_DONE_EXIT_CODE = 1
_SHOWN_DECISIONS = 10


def _wish(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    match = _WISH.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"'{text}' is no TARGET=N, such as mini=2, gateway=3 or trainers=1.")
    return match[1], int(match[2])


@click.command("scale")
@click.argument("wish", callback=_wish, required=False, metavar="[TARGET=N]")
@address_option
@json_option
@click.pass_context
def command(ctx: click.Context, *, wish: tuple[str, int] | None, address: str, as_json: bool) -> None:
    """Show how many of each there are and why, or set one by hand.

    TARGET is a model, `gateway` or `trainers`; N lies between its limits in cluster.yaml. Without TARGET=N: counts,
    limits, signals and the last decisions.

    Exit code 0: done, 1: refused or blocked by headroom, 3: nothing answers.
    """
    if wish is None:
        _show(address, as_json=as_json)
        return
    decision = _asked(address, *wish)
    if as_json:
        click.echo(json.dumps(decision.model_dump()))
    else:
        click.echo(_sentence(decision))
    ctx.exit(0 if decision.outcome == "applied" else _NOT_DONE_EXIT_CODE)


def _asked(address: str, target: str, count: int) -> DecisionView:
    from serve_app.commands.asking import post
    from serve_app.scaling.wire import DecisionView

    body = {"target": target, "count": count}
    return post(DecisionView, address, "/admin/scaling", body, timeout_s=_SCALE_TIMEOUT_S)


def _sentence(decision: DecisionView) -> str:
    change = f"{decision.target}: {decision.from_replicas} → {decision.to_replicas}"
    return f"{change}, {decision.outcome.replace('_', ' ')}" + (f": {decision.message}" if decision.message else "")


def _show(address: str, *, as_json: bool) -> None:
    from serve_app.commands.asking import get
    from serve_app.scaling.wire import ScalingView

    view = get(ScalingView, address, "/admin/scaling")
    if as_json:
        click.echo(json.dumps(view.model_dump()))
    else:
        _draw(view)


def _draw(view: ScalingView) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    table = Table("target", "now", "limits", "signals", "state", box=None, padding=(0, 2, 0, 0))
    for one in view.targets:
        limits = f"{one.min_replicas}–{one.max_replicas}" + (f" ({one.schedule})" if one.schedule else "")
        table.add_row(one.target, str(one.replicas), limits, _signals(one), _state(one))
    console().print(table)
    if view.decisions:
        past = Table("last", "target", "change", "outcome", "times", "why", box=None, padding=(0, 2, 0, 0))
        for decision in view.decisions[:_SHOWN_DECISIONS]:
            change = f"{decision.from_replicas} → {decision.to_replicas}"
            why = f"{decision.reason}; {decision.message}" if decision.message else decision.reason
            outcome = decision.outcome.replace("_", " ")
            past.add_row(decision.last_at, decision.target, change, outcome, str(decision.times), why)
        console().print(past)


def _signals(target: TargetView) -> str:
    known = ((name, value) for name, value in target.signals.items() if value is not None)
    return ", ".join(f"{name} {value:.4g}" for name, value in known) or "–"


def _state(target: TargetView) -> str:
    if target.is_changing:
        return "changing"
    if target.cooling_s > 0:
        return f"cooling down, {target.cooling_s:.0f} s left"
    holding = (f"{one.direction}: {one.signal} for {one.for_s:.0f} s" for one in target.holding)
    return ", ".join(holding) or "steady"
