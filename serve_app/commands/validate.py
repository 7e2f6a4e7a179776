"""`headroom validate`: the checks that come before a change counts, against the running cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.validate.checks import Outcome

NOT_WELL_EXIT_CODE = 1
_GROUPS = ("device", "model", "service", "cross-node")
_COLOURS = {"PASS": "green", "FAIL": "bold red", "SKIP": "yellow"}


@click.command("validate")
@click.option("--group", "groups", type=click.Choice(_GROUPS), multiple=True, help="Only this one; may be given often.")
@click.option("--model", help="Ask this model in each mode, instead of the one the mode chooses.")
@click.option("--quick", is_flag=True, help="Nothing that takes longer than a request: no reload.")
@click.option("--disruptive", is_flag=True, help="Also put one model away for a moment and bring it back.")
@click.option(
    "--limit", "given", multiple=True, metavar="NAME=VALUE", help="Such as request_s=1.5; may be given often."
)
@click.option("--limits", "file", type=click.Path(path_type=Path), help="YAML file of limits.")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the cluster keeps its traces. Default: $HEADROOM_HOME, or ~/.headroom.",
)
@address_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    groups: tuple[str, ...],
    model: str | None,
    quick: bool,
    disruptive: bool,
    given: tuple[str, ...],
    file: Path | None,
    home: Path | None,
    address: str,
    as_json: bool,
) -> None:
    """Check devices, models, service and nodes of the running cluster.

    Exit code 0: nothing failed, 1: something did, 3: nothing answers at the address.
    """
    from serve_app.client.terms import terms_of
    from serve_app.commands.asking import get_json
    from serve_app.commands.traces import trace_directory
    from serve_app.validate.checks import Group, all_well
    from serve_app.validate.limits import BadLimits, read_limits
    from serve_app.validate.suite import Wish, validate

    try:
        limits = read_limits(file, given)
    except BadLimits as error:
        raise click.UsageError(str(error), ctx) from error
    wish = Wish(
        groups=tuple(Group(one) for one in groups or _GROUPS),
        model=model,
        is_quick=quick,
        is_disruptive=disruptive,
        limits=limits,
        trace_folder=trace_directory(home),
    )
    get_json(address, "/health")  # says in one sentence that nobody is there, instead of twenty times
    terms = terms_of()
    outcomes = asyncio.run(validate(address, wish, key=terms.key, trust=terms.trust))
    if as_json:
        click.echo(json.dumps(_as_json(outcomes)))
    else:
        _draw(outcomes)
    ctx.exit(0 if all_well(outcomes) else NOT_WELL_EXIT_CODE)


def _as_json(outcomes: Sequence[Outcome]) -> dict[str, object]:
    from serve_app.validate.checks import all_well

    checks = [
        {
            "check": one.check.value,
            "group": one.check.group.value,
            "status": one.finding.status.value,
            "measured": one.finding.measured,
            "limit": one.finding.limit,
            "reason": one.finding.reason,
        }
        for one in outcomes
    ]
    return {"passes": all_well(outcomes), "checks": checks}


def _draw(outcomes: Sequence[Outcome]) -> None:
    from rich.table import Table
    from rich.text import Text

    from serve_app.commands.screen import console
    from serve_app.validate.checks import Group

    out = console()
    for group in Group:
        rows = [one for one in outcomes if one.check.group is group]
        if not rows:
            continue
        table = Table("check", "measured", "limit", "", "why", box=None, padding=(0, 2, 0, 2), title=group.value)
        table.title_justify = "left"
        for one in rows:
            status = one.finding.status.value
            table.add_row(
                one.check.value.partition(".")[2],
                Text(one.finding.measured),
                Text(one.finding.limit),
                Text(status, style=_COLOURS[status]),
                Text(one.finding.reason),
            )
        out.print(table)
    statuses = [one.finding.status.value for one in outcomes]
    click.echo(", ".join(f"{statuses.count(status)} {status}" for status in _COLOURS))
