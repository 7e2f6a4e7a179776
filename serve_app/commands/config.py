"""`headroom config`: check cluster.yaml, print its schema, print the settings it comes to."""

from __future__ import annotations

import json
import re
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
    from serve_app.config.load import load_cluster
    from serve_app.config.sources import check_sources

    cluster = load_cluster(file)
    check_sources(cluster)
    settings = cluster.settings
    models, modes = _count(len(settings.models), "model"), _count(len(settings.modes), "mode")
    click.echo(f"ok: {models}, {modes}")


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of the file, with meanings, units, ranges and defaults."""
    from serve_app.config.serve_file import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


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
