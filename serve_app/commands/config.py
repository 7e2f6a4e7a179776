"""`headroom config`: check cluster.yaml, print its schema, print the settings it comes to."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import click

from serve_app.commands.options import config_file_argument


@click.group("config")
def command() -> None:
    """Check, explain and show cluster.yaml."""


@command.command("check")
@config_file_argument
def check(file: Path) -> None:
    """Say every problem of FILE at once, also sources that cannot be opened; exit 2 when there is any."""
    from serve_app.config.certificate import check_certificate
    from serve_app.config.load import load_cluster
    from serve_app.config.sources import check_sources

    cluster = load_cluster(file)
    check_sources(cluster)
    doubt = check_certificate(cluster, now_s=time.time())
    if doubt is not None:
        click.echo(f"Warning: {doubt.message}", err=True)
    settings = cluster.settings
    models, modes = _count(len(settings.models), "model"), _count(len(settings.modes), "mode")
    click.echo(f"ok: {models}, {modes}")


@command.command("schema")
@click.argument("which", type=click.Choice(["cluster", "fleet", "demands"]), default="cluster")
def schema(which: str) -> None:
    """Print the JSON Schema of a file, with meanings, units, ranges and defaults.

    WHICH is cluster (cluster.yaml, the default), fleet or demands (what `headroom plan` takes under these options).
    """
    from serve_app.config.demands_file import DemandsFile
    from serve_app.config.fleet_file import FleetFile
    from serve_app.config.serve_file import json_schema

    schemas = {"cluster": json_schema, "fleet": FleetFile.model_json_schema, "demands": DemandsFile.model_json_schema}
    click.echo(json.dumps(schemas[which](), indent=2))


@command.command("show")
@config_file_argument
def show(file: Path) -> None:
    """Print the effective settings as JSON: every default filled in, every path absolute, no password."""
    from serve_app.config.load import load_cluster

    cluster = load_cluster(file)
    effective = {"http": {"host": cluster.host, "port": cluster.port}, **asdict(cluster.settings)}
    click.echo(_without_passwords(json.dumps(effective, indent=2, default=str)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _without_passwords(text: str) -> str:
    return re.sub(r"://[^/@\s\"]*@", "://***@", text)
