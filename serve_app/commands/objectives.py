"""`headroom objectives`: what is promised, how well it is kept, and whether it is being missed now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.api.wire import BurnView

BURNS_EXIT_CODE = 1
_DAY_S = 86_400.0


@click.command("objectives")
@address_option
@json_option
@click.pass_context
def command(ctx: click.Context, *, address: str, as_json: bool) -> None:
    """Show every objective with what was good, what is left of its error budget, and how fast that is spent.

    Burn is how many times faster than allowed the budget is spent, over the last hour and the last five minutes; an
    objective burns when both are high. A dash: nothing was counted.

    Exit code 0: none burns, 1: one does, 3: nothing answers.
    """
    from serve_app.api.wire import ObjectivesView
    from serve_app.commands.asking import get

    view = get(ObjectivesView, address, "/v1/objectives")
    if as_json:
        click.echo(json.dumps(view.model_dump()))
    else:
        _draw(view.objectives)
    ctx.exit(BURNS_EXIT_CODE if any(one.is_burning for one in view.objectives) else 0)


def _draw(burns: tuple[BurnView, ...]) -> None:
    from rich.table import Table

    from placement.objectives import BurnWindows
    from serve_app.commands.screen import console

    windows = BurnWindows()
    rates = (f"burn {windows.long_s / 60:g} min", f"burn {windows.short_s / 60:g} min")
    titles = ("objective", "target", "window", "good", "of", "budget left", *rates, "")
    table = Table(*titles, box=None, padding=(0, 1))
    for one in burns:
        table.add_row(
            one.objective.name,
            _target(one),
            f"{one.objective.window_s / _DAY_S:g} d",
            str(one.num_good),
            str(one.num_total),
            f"{one.budget_left:.1%}",
            _rate(one.long_rate),
            _rate(one.short_rate),
            "BURNS" if one.is_burning else "ok",
        )
    console().print(table)


def _target(one: BurnView) -> str:
    within = "" if one.objective.within_s is None else f" within {one.objective.within_s:g} s"
    return f"{100 * one.objective.target:g} %{within}"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1f}x"
