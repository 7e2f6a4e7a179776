"""`headroom checkpoints`: list, archive, restore, verify and pin the checkpoints of a home, running cluster or not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from serve_app.commands.models import home_option
from serve_app.commands.options import json_option

DAMAGED_EXIT_CODE = 5
"""As of a checkpoint that is refused."""

model_argument = click.argument("model")
name_argument = click.argument("name", metavar="CHECKPOINT")


@click.group("checkpoints")
def command() -> None:
    """List, archive, restore, verify and pin checkpoints. CHECKPOINT is a name such as checkpoint-500."""


@command.command("list")
@home_option
@json_option
def list_(home: Path, as_json: bool) -> None:
    """List every checkpoint with why it is kept; `old` ones go to the archive. Reads no weights."""
    from serve_app.compare.archive import archived, listed

    home = home.expanduser()
    kept, away = listed(home, now_s=time.time()), archived(home)
    if as_json:
        lines = [
            {
                "model": one.checkpoint.model,
                "name": one.checkpoint.name,
                "step": one.checkpoint.step,
                "weights_version": one.checkpoint.weights_version,
                "why": one.why.value,
                "path": str(one.path),
            }
            for one in kept
        ]
        click.echo(json.dumps({"checkpoints": lines, "archived": [str(path) for path in away]}, indent=2))
        return
    from rich.table import Table

    from serve_app.commands.screen import console

    table = Table("MODEL", "CHECKPOINT", "STEP", "WEIGHTS", "AGE", "KEPT BECAUSE", box=None, pad_edge=False)
    for one in kept:
        of = one.checkpoint
        age = f"{(time.time() - of.made_at_s) / 86_400:.1f} d"
        table.add_row(of.model, of.name, str(of.step), of.weights_version or "–", age, one.why.value)
    for path in away:
        table.add_row(path.parent.name, path.name, "–", "–", "–", "archived")
    console().print(table)


@command.command("archive")
@click.argument("model", required=False)
@click.argument("name", required=False, metavar="[CHECKPOINT]")
@home_option
def archive_(model: str | None, name: str | None, home: Path) -> None:
    """Move CHECKPOINT of MODEL to the archive; without both, everything that is `old`."""
    from serve_app.compare.archive import archive, archive_old

    if model is not None and name is None:
        raise click.UsageError("Name the checkpoint too, or neither model nor checkpoint.")
    home = home.expanduser()
    moved = archive_old(home, now_s=time.time()) if model is None or name is None else (archive(home, model, name),)
    for path in moved:
        click.echo(f"archived: {path}")
    if not moved:
        click.echo("Nothing is old enough.")


@command.command("restore")
@model_argument
@name_argument
@home_option
def restore_(model: str, name: str, home: Path) -> None:
    """Verify CHECKPOINT of MODEL in the archive and move it back."""
    from serve_app.compare.archive import restore

    click.echo(f"restored: {restore(home.expanduser(), model, name)}")


@command.command("verify")
@home_option
@json_option
@click.pass_context
def verify(ctx: click.Context, home: Path, as_json: bool) -> None:
    """Read every byte of what serves and of what is pinned, and hold it against manifest and baseline.

    The first run takes the baseline. Exit code 5 when something was changed.
    """
    from serve_app.compare.archive import verify_baseline

    checked = verify_baseline(home.expanduser(), now_s=time.time())
    if as_json:
        lines = [
            {"path": str(one.path), "weights_version": one.weights_version, "problem": one.problem or None}
            for one in checked
        ]
        click.echo(json.dumps(lines, indent=2))
    else:
        for one in checked:
            click.echo(one.problem or f"ok: {one.path} ({one.weights_version})")
        if not checked:
            click.echo("Nothing serves and nothing is pinned.")
    ctx.exit(DAMAGED_EXIT_CODE if any(one.problem for one in checked) else 0)


@command.command("pin")
@model_argument
@name_argument
@home_option
def pin_(model: str, name: str, home: Path) -> None:
    """Never archive CHECKPOINT of MODEL."""
    from serve_app.compare.archive import pin

    pin(home.expanduser(), model, name)
    click.echo(f"pinned: {model} {name}")


@command.command("unpin")
@model_argument
@name_argument
@home_option
def unpin_(model: str, name: str, home: Path) -> None:
    """Take your pin from CHECKPOINT of MODEL; other holders keep theirs."""
    from serve_app.compare.archive import unpin

    done = unpin(home.expanduser(), model, name)
    click.echo(f"unpinned: {model} {name}" if done else f"{model} {name} had no pin of yours.")
