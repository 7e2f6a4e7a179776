"""Options and arguments that several subcommands share, so that they are spelt and explained alike."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_ADDRESS = "http://127.0.0.1:8000"

config_file_argument = click.argument(
    "file", type=click.Path(path_type=Path), default=Path("cluster.yaml"), metavar="[FILE]"
)
"""FILE, `cluster.yaml` in the working directory when left out. Not checked by click: our own error says more."""

address_option = click.option(
    "--address",
    envvar="HEADROOM_ADDRESS",
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    help="Where the cluster listens.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on stdout.")
