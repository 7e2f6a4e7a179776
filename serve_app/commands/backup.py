"""`headroom backup`: save configuration, state and weights of a home, and bring them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import json_option

if TYPE_CHECKING:
    from serve_app.rollout.backup import Backups, Contents

CONFIGURATION_NAME = "cluster.yaml"
STATE_NAME = "controller.sqlite"

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="HEADROOM_HOME",
    default=Path("~/.headroom"),
    show_default=True,
    show_envvar=True,
    help="What is saved, and where backups lie, below `backups`.",
)
config_option = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The cluster.yaml that belongs to it; left out, no configuration is saved or restored.",
)


@click.group("backup")
def command() -> None:
    """Save configuration, state and weights, and bring them back."""


@command.command("create")
@home_option
@config_option
@click.option("--reason", default="by hand", show_default=True, help="Shown in the list.")
@json_option
def create(home: Path, config: Path | None, reason: str, as_json: bool) -> None:
    """Make a backup now, also while the cluster runs; weights that were saved before take no room again."""
    from datetime import UTC, datetime

    home = home.expanduser()
    made = _backups(home).create(_contents(home, config), now=datetime.now(UTC), reason=reason)
    click.echo(made.model_dump_json() if as_json else made.id)


@command.command("list")
@home_option
@json_option
def list_(home: Path, as_json: bool) -> None:
    """List backups, newest first, without reading what is in them."""
    listed = _backups(home.expanduser()).listed()
    if as_json:
        told = [
            {"id": one.id, "refused": one.refused, "manifest": one.manifest and one.manifest.model_dump(mode="json")}
            for one in listed
        ]
        click.echo(json.dumps(told, indent=2))
        return
    if not listed:
        click.echo("No backups.")
        return
    from rich.table import Table

    from serve_app.commands.screen import console

    table = Table("backup", "why", "configuration", "state", "weights", box=None, padding=(0, 1))
    for one in listed:
        if one.manifest is None:
            table.add_row(one.id, one.refused, "–", "–", "–")
            continue
        weights = ", ".join(f"{model} {saved.digest[:12]}" for model, saved in sorted(one.manifest.weights.items()))
        configuration, state = ", ".join(one.manifest.configuration), ", ".join(one.manifest.state)
        table.add_row(one.id, one.manifest.reason, configuration or "–", state or "–", weights or "–")
    console().print(table)


@command.command("verify")
@click.argument("backup_id", metavar="BACKUP")
@home_option
@json_option
def verify(backup_id: str, home: Path, as_json: bool) -> None:
    """Read every byte of BACKUP, weights included."""
    manifest = _backups(home.expanduser()).verify(backup_id)
    click.echo(manifest.model_dump_json() if as_json else f"ok: {manifest.id}")


@command.command("restore")
@click.argument("backup_id", metavar="BACKUP")
@home_option
@config_option
@json_option
def restore(backup_id: str, home: Path, config: Path | None, as_json: bool) -> None:
    """Bring BACKUP back into a home whose cluster is stopped.

    What is there now is backed up first, so that this too can be undone. Revoked keys stay revoked, quarantined
    devices stay quarantined, and epochs go on rising.
    """
    from datetime import UTC, datetime

    from serve_app.fleet.measurements import store_path
    from serve_app.rollout.backup_sqlite import nobody_else_uses
    from serve_app.rollout.restore import Targets
    from serve_app.rollout.restore import restore as bring_back

    home = home.expanduser()
    backups = _backups(home)
    manifest = backups.verify(backup_id)
    with nobody_else_uses(store_path(home)):
        pass
    kept = len(backups.listed()) + 1  # making the way back must not push out what is restored
    undo = backups.create(_contents(home, config), now=datetime.now(UTC), reason=f"before {backup_id}", kept=kept)
    with nobody_else_uses(store_path(home)) as state:
        into = Targets(
            databases={STATE_NAME: state} if STATE_NAME in manifest.state else {},
            configuration={CONFIGURATION_NAME: config} if config is not None else {},
            models=home / "models",
        )
        done = bring_back(backups, backup_id, into)
    weights = {model: str(path) for model, path in done.weights.items()}
    if as_json:
        click.echo(json.dumps({"restored": backup_id, "undo": undo.id, "weights": weights}))
        return
    click.echo(f"Restored {backup_id}. To undo: headroom backup restore {undo.id}")
    for model, path in weights.items():
        click.echo(f"{model}: {path}")


def _backups(home: Path) -> Backups:
    from serve_app.rollout.backup import Backups

    return Backups(home)


def _contents(home: Path, config: Path | None) -> Contents:
    """What there is of the three targets: a home that never ran has no state."""
    from serve_app.errors import HeadroomError
    from serve_app.fleet.measurements import store_path
    from serve_app.rollout.backup import Contents
    from serve_app.training.deployed import read_deployed

    try:
        configuration = {CONFIGURATION_NAME: config.read_bytes()} if config is not None and config.exists() else {}
    except OSError as error:
        raise HeadroomError(f"{config} cannot be read: {error.strerror}.", advice="Correct its permissions.") from error
    folders = [path for path in (home / "models").glob("*") if path.is_dir()]
    deployed = {folder.name: checkpoint for folder in folders if (checkpoint := read_deployed(folder)) is not None}
    state = store_path(home)
    return Contents(
        configuration=configuration, databases={STATE_NAME: state} if state.exists() else {}, weights=deployed
    )
