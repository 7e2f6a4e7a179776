"""`headroom comparisons`: every checkpoint with its score, its rank and the verdict against what serves.

Below, or alone with --live: how what serves answered its test set through the live API last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from serve_app.commands.models import home_option
from serve_app.commands.options import json_option
from serve_app.errors import BadAnswer, NotRunning


@click.command("comparisons")
@click.argument("model", required=False)
@click.option("--live", "only_live", is_flag=True, help="Only the scheduled tests of what serves.")
@home_option
@json_option
def command(model: str | None, only_live: bool, home: Path, as_json: bool) -> None:
    """Show the checkpoints of MODEL, or of all models, best first, as the cluster compared them last.

    Then how what serves answered its test set last, through the live API: its accuracy, whether that is a regression,
    how far its confidence is from its accuracy, and how many wrong answers weigh on the next job's data.
    """
    home = home.expanduser()
    models = {} if only_live else read_comparisons(home)
    shown = {name: lines for name, lines in models.items() if model in (None, name)}
    tests = {name: test for name, test in read_live_tests(home).items() if model in (None, name)}
    if as_json:
        click.echo(json.dumps(tests if only_live else shown, indent=2))
        return
    if shown:
        _draw(shown)
    elif not only_live:
        click.echo("Nothing was compared yet." if model is None else f"Nothing of {model} was compared yet.")
    if tests:
        from serve_app.commands.live_table import draw_live_tests
        from serve_app.commands.screen import console

        draw_live_tests(console(), tests)
    elif only_live:
        click.echo("Nothing that serves was tested yet.")


def read_comparisons(home: Path) -> dict[str, list[dict[str, Any]]]:
    """Lines by model. Raises: NotRunning when nothing ever compared here, BadAnswer for another program's file."""
    from serve_app.compare.board import FILE_NAME, FORMAT_VERSION

    path = home / "status" / FILE_NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotRunning(
            f"There is no {path}.", expected="Written by a running cluster.", advice="Name its home with --home."
        ) from error
    except (OSError, ValueError) as error:
        raise BadAnswer(f"{path} cannot be read: {error}.", advice="A running cluster writes it again.") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise BadAnswer(f"{path} is not of format {FORMAT_VERSION}.", advice="Use the version that wrote it.")
    models: dict[str, list[dict[str, Any]]] = content["models"]
    return models


def read_live_tests(home: Path) -> dict[str, dict[str, Any]]:
    """The newest scheduled test by model; empty before the first. Raises: BadAnswer for another program's file."""
    from serve_app.compare.live_report import FILE_NAME, FORMAT_VERSION

    path = home / "status" / FILE_NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadAnswer(f"{path} cannot be read: {error}.", advice="A running cluster writes it again.") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise BadAnswer(f"{path} is not of format {FORMAT_VERSION}.", advice="Use the version that wrote it.")
    tests: dict[str, dict[str, Any]] = content["models"]
    return tests


def _draw(models: dict[str, list[dict[str, Any]]]) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    titles = ("MODEL", "RANK", "STEP", "WEIGHTS", "ACCURACY", "LOSS", "FORM", "MEDIAN", "WHAT OF IT")
    table = Table(*titles, box=None, pad_edge=False)
    for model, lines in models.items():
        for line in lines:
            table.add_row(model, *(str(line[key] or "–") for key in ("rank", "step", "weights_version")), *_cells(line))
    console().print(table)


def _cells(line: dict[str, Any]) -> tuple[str, str, str, str, str]:
    score = line["score"]
    if score is None:
        return "–", "–", "–", "–", f"{line['state']}: {line['reason']}"
    loss = "–" if score["loss"] is None else f"{score['loss']:.3f}"
    form, median = f"{score['format_share']:.0%}", f"{1000 * score['latency_s']:.0f} ms"
    return f"{score['accuracy']:.1%} ({score['low']:.0%}–{score['high']:.0%})", loss, form, median, _what(line)


def _what(line: dict[str, Any]) -> str:
    if line["deployed"]:
        return "serves"
    return str(line["verdict"]["sentence"]) if line["verdict"] else "nothing that serves was scored"
