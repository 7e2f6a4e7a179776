"""`headroom why`: from an answer back to the training run that made its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.why.known import Step


@click.command("why")
@click.argument("asked", metavar="RESPONSE_ID|TRACE_ID")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where models, state and traces lie. Default: $HEADROOM_HOME, or ~/.headroom.",
)
@address_option
@json_option
def command(*, asked: str, home: Path | None, address: str, as_json: bool) -> None:
    """Follow an answer back: replica, device, weights, rollout, comparison, training run.

    RESPONSE_ID is the `id` of an answer, TRACE_ID its header `x-trace-id`. Reads this machine's files, and the
    cluster's rollouts and jobs; what is missing is said, and the rest is shown.
    """
    from serve_app.commands.asking import call
    from serve_app.commands.traces import trace_directory
    from serve_app.why.origin import origin_of
    from serve_app.why.reading import read_known, read_trace

    folder = trace_directory(home)
    trace = read_trace(folder, asked)
    steps = origin_of(trace, read_known(folder.parent, lambda path: call("GET", address, path)))
    if as_json:
        click.echo(json.dumps({"trace_id": trace[0].trace_id, "steps": [_as_json(step) for step in steps]}))
    else:
        _draw(steps)


def _as_json(step: Step) -> dict[str, object]:
    return {
        "kind": step.kind.value,
        "name": step.name,
        "facts": dict(step.facts),
        "missing": step.missing or None,
        "began_unix_s": step.began_unix_s,
        "queued_s": step.queued_s,
        "took_s": step.took_s,
        "trace_id": step.trace_id,
    }


def _draw(steps: Sequence[Step]) -> None:
    from rich.table import Table
    from rich.text import Text

    from serve_app.commands.screen import console

    table = Table("", "", "when", "queued", "ran", "", box=None, padding=(0, 2, 0, 0))
    for step in steps:
        facts = "  ".join(f"{name}={value}" for name, value in step.facts.items())
        said = Text(facts)
        if step.missing:
            said.append(f"{'  ' if facts else ''}{step.missing}", style="yellow")
        table.add_row(
            Text(step.kind.value, style="bold"),
            Text(step.name),
            _when(step.began_unix_s),
            _took(step.queued_s),
            _took(step.took_s),
            said,
        )
    console().print(table)
    traces = [f"{step.kind.value} {step.trace_id}" for step in steps if step.trace_id is not None]
    click.echo(f"Traces: {', '.join(traces)}")


def _when(unix_s: float | None) -> str:
    return "" if unix_s is None else datetime.fromtimestamp(unix_s).astimezone().strftime("%m-%d %H:%M:%S")


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds * 1000:.0f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
    )
