"""`headroom plan`: what would go where, byte by byte, without starting anything; here, or on a fleet elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from serve_app.commands.options import config_file_argument, json_option
from serve_app.commands.plan_question import WhatIf, answer, ask, question_here

if TYPE_CHECKING:
    from placement.inventory import Inventory
    from placement.plan import Plan
    from serve_app.config.load import ClusterFile

REFUSED_EXIT_CODE = 1
MOST = "most"
"""Value of `--defragment` without a number of bytes."""


class ReplicaCount(click.ParamType[tuple[str, int]]):
    """`ID=N`, N from 0."""

    name = "ID=N"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        model, _, count = value.rpartition("=")
        if not model or not count.isascii() or not count.isdecimal() or int(count) > MAX_COUNT:
            self.fail(f"'{value}' is not MODEL=REPLICAS with 0 to {MAX_COUNT} replicas, e.g. small=4", param, ctx)
        return model, int(count)


class Size(click.ParamType[int]):
    """A size as in cluster.yaml; 0, as much as possible, for `MOST`."""

    name = "BYTES"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from serve_app.config.sizes import size_bytes

        if value == MOST:
            return 0
        try:
            num_bytes = int(value) if value.isascii() and value.isdecimal() else size_bytes(value)
        except ValueError:
            num_bytes = 0
        if num_bytes <= 0:
            self.fail(f"'{value}' is not a size above 0 such as 16GiB; give FILE before --defragment", param, ctx)
        return num_bytes


MAX_COUNT = 4096
_path = click.Path(path_type=Path)


@click.command("plan")
@config_file_argument
@click.option("--fleet", type=_path, help="Plan for the fleet this file describes instead of this machine.")
@click.option("--demands", type=_path, help="Plan the models this file describes instead of those of FILE.")
@click.option(
    "--demand", "counts", type=ReplicaCount(), multiple=True, metavar="MODEL=N", help="So many replicas of a model."
)
@click.option("--without", multiple=True, metavar="NODE|DEVICE", help="Leave a node or device out.")
@click.option("--headroom", type=click.FloatRange(0, 0.95), help="Keep this fraction free, e.g. 0.3.")
@click.option(
    "--running", type=_path, help="The plan in force, as --json printed it: keep what may stay, and show the steps."
)
@click.option(
    "--defragment",
    type=Size(),
    is_flag=False,
    flag_value=MOST,
    help="Show which moves join free space for a replica of so many bytes; without a size, for the largest possible.",
)
@click.option("--certificate", is_flag=True, help="Show the proof: every sum, the bounds, and why not elsewhere.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    file: Path,
    fleet: Path | None,
    demands: Path | None,
    counts: tuple[tuple[str, int], ...],
    without: tuple[str, ...],
    headroom: float | None,
    running: Path | None,
    defragment: int | None,
    certificate: bool,
    as_json: bool,
) -> None:
    """Show which model of FILE goes where on this machine, every holder with its bytes, and what is refused and why.

    Reads devices, config.json and safetensors headers; loads and starts nothing. Exit code 0: everything is placed,
    1: something is refused, 2: FILE or an option is wrong. `headroom config schema fleet` and `... demands` explain
    the files of --fleet and --demands.

    \b
    What if two more were asked for, on another fleet?
      headroom plan --fleet fleet.yaml --demand small=3
    What moves when a node is lost?
      headroom plan --fleet fleet.yaml --json > plan.json
      headroom plan --fleet fleet.yaml --running plan.json --without node-1
    What does it take to place one more of 16 GiB?
      headroom plan --fleet fleet.yaml --running plan.json --defragment 16GiB
    """
    from serve_app.commands.plan_answer import Extras, make_answer, print_answer

    what_if = WhatIf(fleet=fleet, demands=demands, counts=counts, without=without, headroom=headroom)
    is_file_named = ctx.get_parameter_source("file") is not ParameterSource.DEFAULT
    question, cluster = ask(file, what_if, is_file_named=is_file_named)
    if cluster and not fleet and not as_json:
        _say_who_else_runs(cluster)
    extras = Extras(running=running, defragment_bytes=defragment, wants_certificate=certificate)
    made = make_answer(question, extras)
    print_answer(made, as_json=as_json)
    ctx.exit(REFUSED_EXIT_CODE if made.plan.refusals else 0)


def say_plan(cluster: ClusterFile, *, host_total_bytes: int | None = None) -> Plan:
    """Makes the plan for this machine and prints it. Arguments and errors are those of `make_plan`."""
    from serve_app.commands.plan_table import draw_plan
    from serve_app.commands.screen import console

    plan, inventory = make_plan(cluster, host_total_bytes=host_total_bytes)
    draw_plan(console(), plan, inventory)
    return plan


def make_plan(cluster: ClusterFile, *, host_total_bytes: int | None = None) -> tuple[Plan, Inventory]:
    """The plan for this machine as it is now, and what it was made for.

    `host_total_bytes` narrows the host's memory to plan with; None takes all of it.
    Raises: ConfigError, DeviceUnreadable.
    """
    question = question_here(cluster, host_total_bytes=host_total_bytes)
    return answer(question), question.inventory


def _say_who_else_runs(cluster: ClusterFile) -> None:
    """A running cluster's engines hold memory of this machine; the reader must know that they are counted."""
    import socket

    try:
        socket.create_connection((cluster.host, cluster.port), timeout=0.2).close()
    except OSError:
        return
    note = f"Something listens on {cluster.host}:{cluster.port}. If that is a cluster of yours, its engines are among"
    click.echo(f"{note} the other processes below; `headroom gpus` shows its own plan.", err=True)
