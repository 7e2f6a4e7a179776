"""`headroom models`: make, list and verify models in the home; load, unload and pin those of a running cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from serve_app.commands.model_actions import commands
from serve_app.commands.options import json_option

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="HEADROOM_HOME",
    default=Path("~/.headroom"),
    show_default=True,
    show_envvar=True,
    help="Where models lie, below `models`.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One model of the home. What is None is not there, or the checkpoint does not say it."""

    model: str
    default: bool
    checkpoint: str | None
    step: int | None
    weights_version: str | None
    deployed: bool
    test_accuracy: float | None


@click.group("models")
def command() -> None:
    """Make, list and verify models; load, unload, wake and pin them while the cluster runs."""


@command.command("make")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@home_option
@click.option("--force", is_flag=True, help="Train again what is already there.")
@json_option
def make(names: tuple[str, ...], home: Path, force: bool, as_json: bool) -> None:
    """Train the default models NAME (all of them when none is named) and store them in the home.

    A model that is there and whole is left as it is.
    """
    from serve_app.commands.training_progress import TrainingProgress
    from serve_app.training.defaults import DEFAULT_MODELS
    from serve_app.training.side_by_side import ensure_default_models

    with TrainingProgress() as shown:
        made = ensure_default_models(names or DEFAULT_MODELS, home=home.expanduser(), progress=shown, force=force)
    if as_json:
        click.echo(json.dumps({name: str(path) for name, path in made.items()}, indent=2))
        return
    for name, path in made.items():
        click.echo(f"{name}: {path}")


@command.command("list")
@home_option
@json_option
def list_(home: Path, as_json: bool) -> None:
    """List the default models and what else lies in the home, without reading any weights."""
    listed = list(_listed(home.expanduser()))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in listed], indent=2))
        return
    from rich.table import Table

    from serve_app.commands.screen import console

    table = Table(box=None, pad_edge=False)
    for title in ("MODEL", "STEP", "WEIGHTS", "SERVES", "TEST SET", "CHECKPOINT"):
        table.add_column(title, overflow="fold")
    for one in listed:
        accuracy = "–" if one.test_accuracy is None else f"{one.test_accuracy:.0%}"
        step = "–" if one.step is None else str(one.step)
        serves = "yes" if one.deployed else "–"
        table.add_row(one.model, step, one.weights_version or "–", serves, accuracy, one.checkpoint or "not made yet")
    console().print(table)


@command.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Read every byte of the checkpoint at PATH and say which weights it holds; exit 5 when it is refused."""
    from serve_app.training.checkpoints import verify_checkpoint

    found = verify_checkpoint(path.expanduser())
    facts = {
        "path": str(found.path),
        "step": found.step,
        "weights_version": found.weights_version,
        "weights_bytes": found.weights_bytes,
        "files": {name: entry.sha256 for name, entry in sorted(found.files.items())},
        "manifest": found.manifest is not None,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    against = "as its manifest says" if found.manifest else "no manifest, digests computed now"
    click.echo(f"ok: {found.path}")
    click.echo(f"weights {found.weights_version}, step {'–' if found.step is None else found.step}")
    click.echo(f"{len(found.files)} files ({against}), {found.weights_bytes / 2**20:.1f} MiB of weights")


for _one_action in commands():
    command.add_command(_one_action)


def _listed(home: Path) -> Iterator[Listed]:
    from serve_app.training.defaults import DEFAULT_MODELS
    from serve_app.training.sources import models_folder

    folder = models_folder(home)
    others = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for name in dict.fromkeys((*DEFAULT_MODELS, *others)):
        yield _one(name, folder / name, default=name in DEFAULT_MODELS)


def _one(name: str, folder: Path, *, default: bool) -> Listed:
    from serve_app.errors import CheckpointRefused
    from serve_app.training.checkpoints import accuracy_of, read_manifest, step_of
    from serve_app.training.deployed import latest_checkpoint, read_deployed

    deployed = read_deployed(folder)
    checkpoint = deployed or latest_checkpoint(folder)
    try:
        manifest = read_manifest(checkpoint) if checkpoint else None
    except (CheckpointRefused, OSError):
        manifest = None
    return Listed(
        model=name,
        default=default,
        checkpoint=str(checkpoint) if checkpoint else None,
        step=step_of(checkpoint) if checkpoint else None,
        weights_version=manifest.weights_version if manifest else None,
        deployed=deployed is not None,
        test_accuracy=accuracy_of(checkpoint) if checkpoint else None,
    )
