"""`headroom traces`: the last requests this machine served, read from local files; needs no running cluster."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from serve_app.errors import HeadroomError
from tracing.recent import SpanRecord, TraceSummary, TreeNode, find_traces, recent_traces, tree

_SHOWN_FIRST = (
    "http.response.status_code",
    "error.type",
    "headroom.mode",
    "headroom.model",
    "headroom.cache",
    "headroom.decision",
    "headroom.downshifted_from",
    "headroom.weights_version",
    "headroom.device",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.latency.time_to_first_token",
    "gen_ai.latency.time_in_queue",
)
_PIPED_WIDTH = 200
"""Columns when the output is not a terminal, so that nothing is cut for `grep`."""


class NoTraces(HeadroomError):
    """Nothing to show: not an error of the product, but what was asked for is not there."""


@click.command(name="traces", help="Show the last traces kept on this machine, or one of them as a tree.")
@click.argument("trace_id", required=False)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where models, state and traces lie. Default: $HEADROOM_HOME, or ~/.headroom.",
)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Traces to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(trace_id: str | None, home: Path | None, limit: int, as_json: bool) -> None:
    directory = trace_directory(home)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    if trace_id is None:
        summaries = recent_traces(directory, limit=limit)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(summary) for summary in summaries]))
            return
        if not summaries:
            raise _none_kept(directory)
        console.print(_table(summaries))
        return
    found_id, spans = _one(directory, trace_id)
    if as_json:
        click.echo(json.dumps({"trace_id": found_id, "spans": [dataclasses.asdict(span) for span in spans]}))
        return
    console.print(_picture(found_id, tree(spans)))


def trace_directory(home: Path | None) -> Path:
    """`traces` below `--home`, `$HEADROOM_HOME` or `~/.headroom`."""
    return (home or Path(os.environ.get("HEADROOM_HOME") or "~/.headroom")).expanduser() / "traces"


def _one(directory: Path, prefix: str) -> tuple[str, tuple[SpanRecord, ...]]:
    found = find_traces(directory, prefix)
    if not found:
        if not any(find_traces(directory, "")):
            raise _none_kept(directory)
        raise NoTraces(
            f"No trace kept in '{directory}' has an id that begins with '{prefix}'.",
            advice="`headroom traces` lists those that are kept; the oldest go first.",
        )
    if len(found) > 1:
        raise NoTraces(f"'{prefix}' fits {len(found)} traces.", advice="Give more digits of the id.")
    return next(iter(found.items()))


def _none_kept(directory: Path) -> NoTraces:
    return NoTraces(
        f"No traces are kept in '{directory}'.",
        expected="They are kept once a cluster started with `make serve` or `headroom up` has answered a request, "
        "unless `tracing.keep_recent` is 0 in cluster.yaml.",
        advice="Send a request, or set `tracing.keep_recent` above 0 and start again; "
        "--home or $HEADROOM_HOME must name the home that the cluster uses.",
    )


def _table(summaries: tuple[TraceSummary, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("time", "trace id", "root", "status"):
        table.add_column(heading, no_wrap=True)
    for heading in ("duration", "spans"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(
            _clock(summary.start_ns),
            summary.trace_id,
            Text(summary.root),
            Text(summary.status, style="red" if summary.status == "error" else "green"),
            _duration(summary.duration_ms),
            str(summary.num_spans),
        )
    return table


def _picture(trace_id: str, roots: tuple[TreeNode, ...]) -> Tree:
    start_ns = min((node.span.start_ns for node in roots), default=0)
    picture = Tree(Text(f"trace {trace_id}  {_clock(start_ns)}"))
    for node in roots:
        _grow(picture, node, start_ns)
    return picture


def _grow(branch: Tree, node: TreeNode, start_ns: int) -> None:
    span = node.span
    line = Text.assemble(
        (span.name, "bold red" if span.status == "error" else "bold"),
        f"  {_duration(span.duration_ms)}",
        (f"  +{_duration((span.start_ns - start_ns) / 1e6)}  {span.service}", "dim"),
    )
    facts = _facts(span.attributes)
    if facts:
        line.append(f"\n{facts}", style="dim")
    leaf = branch.add(line)
    for child in node.children:
        _grow(leaf, child, start_ns)


def _facts(attributes: dict[str, Any]) -> str:
    return "  ".join(f"{key.rsplit('.', 1)[-1]}={_short(attributes[key])}" for key in _SHOWN_FIRST if key in attributes)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.1f} ms"


def _clock(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")
