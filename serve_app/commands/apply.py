"""`headroom apply`: bring a running cluster to what cluster.yaml says now, without stopping what need not change."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_app.commands.options import address_option, config_file_argument, json_option

if TYPE_CHECKING:
    from placement.plan import Plan
    from placement.steps import Steps
    from serve_app.api.wire import ApplyAnswer, ApplyProgress
    from serve_app.config.load import ClusterFile

NOT_APPLIED_EXIT_CODE = 1
_LOOK_S = 0.5
_PLAN_TIMEOUT_S = 130.0
_BUSY_S = 180.0
"""Longest wait for the end of another change, such as a model that wakes up."""


@click.command("apply")
@config_file_argument
@address_option
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before a model is interrupted or refused.")
@json_option
@click.pass_context
def command(ctx: click.Context, *, file: Path, address: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Bring the running cluster to what FILE says: plan, show each step with its price, carry it out.

    Models that do not change serve on. Only `models` and `modes` change while a cluster runs. When a new engine does
    not start, everything goes back to where it was. Exit code 0: applied, or nothing to do; 1: refused, failed or not
    wanted; 2: FILE is wrong; 3: nothing answers.
    """
    from serve_app.config.load import load_cluster
    from serve_app.config.sources import check_sources

    cluster = load_cluster(file)
    check_sources(cluster)
    _make_models(cluster)
    proposed = _ask(cluster, address, dry_run=True)
    plan, steps = _show(proposed, as_json=as_json)
    if dry_run:
        return
    if not (yes or as_json) and _hurts(plan, steps) and not click.confirm("Apply it?", default=False):
        ctx.exit(NOT_APPLIED_EXIT_CODE)
    _ask(cluster, address, dry_run=False)
    progress = _follow(address, quiet=as_json)
    if as_json:
        click.echo(json.dumps(progress.model_dump()))
    elif progress.status == "done":
        click.echo("Applied.")
    if progress.status != "done":
        click.echo(f"Not applied, and back where it was: {progress.message}", err=True)
        ctx.exit(NOT_APPLIED_EXIT_CODE)


def _make_models(cluster: ClusterFile) -> None:
    """Default models that are named for the first time; training takes minutes, and nobody should wait inside Serve."""
    from serve_app.training.side_by_side import ensure_default_models
    from serve_app.training.sources import DEFAULT_SCHEME

    models = cluster.settings.models
    names = [m.source.removeprefix(DEFAULT_SCHEME) for m in models if m.source.startswith(DEFAULT_SCHEME)]
    ensure_default_models(names, home=cluster.settings.storage.home, progress=lambda _: None)


def _ask(cluster: ClusterFile, address: str, *, dry_run: bool) -> ApplyAnswer:
    """Raises: HeadroomError with the controller's sentence when it does not agree."""
    from serve_app.api.wire import ApplyAnswer, ApplyOutcome
    from serve_app.commands.asking import post
    from serve_app.errors import HeadroomError

    asked = {"args": _args(cluster), "config_dir": str(cluster.path.parent), "dry_run": dry_run}
    until_s, is_told = time.monotonic() + _BUSY_S, False
    while True:
        answer = post(ApplyAnswer, address, "/admin/apply", asked, timeout_s=_PLAN_TIMEOUT_S)
        if answer.outcome is not ApplyOutcome.BUSY or time.monotonic() > until_s:
            break
        if not is_told:
            is_told = True
            click.echo("Another change is under way; waiting for its end.", err=True)
        time.sleep(_LOOK_S)
    if answer.outcome not in (ApplyOutcome.PROPOSED, ApplyOutcome.ACCEPTED):
        raise HeadroomError(answer.message)
    return answer


def _args(cluster: ClusterFile) -> Any:
    value: Any = cluster.document.data
    for step in cluster.args_location:
        value = value[step]
    return value


def _show(answer: ApplyAnswer, *, as_json: bool) -> tuple[Plan, Steps]:
    from placement.codec import from_json_value
    from placement.inventory import Inventory
    from placement.plan import Plan
    from placement.steps import Steps
    from serve_app.commands.plan_table import draw_plan
    from serve_app.commands.screen import console
    from serve_app.commands.steps_table import draw_steps

    plan = from_json_value(Plan, answer.plan)
    steps = from_json_value(Steps, answer.steps)
    if as_json:
        click.echo(json.dumps({"plan": answer.plan, "steps": answer.steps}))
    else:
        draw_plan(console(), plan, from_json_value(Inventory, answer.inventory))
        draw_steps(console(), steps)
        for model, reason in answer.resting.items():
            click.echo(f"  '{model}' rests: {reason}")
        for job, reason in answer.giving_way.items():
            click.echo(f"  '{job}' goes back to its queue: {reason}")
    return plan, steps


def _hurts(plan: Plan, steps: Steps) -> bool:
    return bool(plan.refusals or any(not one.was_down for one in steps.interruptions))


def _follow(address: str, *, quiet: bool) -> ApplyProgress:
    """Says each batch when it begins. The gateway may be away for a moment; the controller goes on."""
    from serve_app.api.wire import ApplyProgress
    from serve_app.commands.asking import get
    from serve_app.errors import BadAnswer, NotRunning

    began_s, said = time.monotonic(), ""
    while True:
        try:
            progress = get(ApplyProgress, address, "/admin/apply")
        except (NotRunning, BadAnswer):
            if time.monotonic() - began_s > _PLAN_TIMEOUT_S:
                raise
            time.sleep(_LOOK_S)
            continue
        line = f"{progress.done + 1}/{progress.num_batches}  {progress.doing}"
        if progress.doing and line != said and not quiet:
            said = line
            click.echo(f"[{time.monotonic() - began_s:6.1f} s] {line}")
        if progress.status != "applying":
            return progress
        time.sleep(_LOOK_S)
