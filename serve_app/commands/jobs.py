"""`headroom jobs`: submit, list, show, logs, cancel, review."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from rich.table import Table

STATES = ("queued", "scheduled", "running", "succeeded", "failed", "cancelled")
KINDS = ("train", "reinforce", "score", "script")
FOLLOW_S = 0.5
_LAST_BYTES = 8192


class ConfigEntry(click.ParamType[tuple[str, Any]]):
    """`name=value`, where the value is JSON if it can be read as such, else text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"'{value}' is no setting. Expected name=value, such as learning_rate=0.001.", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


def _submit_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option(
            "--priority",
            type=click.IntRange(0, 1000),
            help="The larger goes first; 5 when left out (a model: 10).",
        ),
        click.option("--memory", "num_bytes", help="Device memory, such as 2GiB, on each device."),
        click.option("--devices", "num_devices", type=click.IntRange(1), help="How many devices; 1 when left out."),
        click.option("--max-run", "run_s", type=float, help="Seconds one attempt may take."),
        click.option(
            "--silence", "silence_s", type=float, help="Seconds without output after which it counts as hung."
        ),
        click.option("--resume-from", help="Checkpoint directory to go on from."),
        click.option("--wait", is_flag=True, help="Wait for its end and show how far it is."),
        address_option,
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("jobs")
def command() -> None:
    """Train models and run scripts on the cluster's devices, inside its headroom."""


@command.group("submit")
def submit() -> None:
    """Put a job into the queue."""


def _training(kind: str, summary: str) -> None:
    @submit.command(kind, help=summary)
    @click.option("--model", "-M", required=True, help="The model to make better.")
    @click.option("--steps", type=click.IntRange(1), help="Steps to make.")
    @click.option("--seed", type=int, help="Seed of data and weights.")
    @click.option("--learning-rate", type=float)
    @click.option("--set", "entries", type=ConfigEntry(), multiple=True, help="Any other setting of the trainer.")
    @_submit_options
    @click.pass_context
    def train(
        ctx: click.Context,
        /,
        *,
        model: str,
        steps: int | None,
        seed: int | None,
        learning_rate: float | None,
        entries: tuple[tuple[str, Any], ...],
        **options: Any,
    ) -> None:
        config = _given({"steps": steps, "seed": seed, "learning_rate": learning_rate}) | dict(entries)
        _submitted(ctx, {"kind": kind, "model": model, "config": config}, **options)


_training("train", "Train a model on, or a new one from the beginning.")
_training("reinforce", "Reinforcement fine-tuning on tasks whose answers can be checked.")


@submit.command("script", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--model", "-M", help="The model it is about, for lists.")
@_submit_options
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.pass_context
def script(ctx: click.Context, /, *, model: str | None, program: tuple[str, ...], **options: Any) -> None:
    """Run COMMAND as a job. It needs --memory. No shell reads it."""
    _submitted(ctx, {"kind": "script", "command": list(program), **_given({"model": model})}, **options)


@command.command("list")
@click.option("--state", type=click.Choice(STATES))
@click.option("--kind", type=click.Choice(KINDS))
@click.option("--model", default="")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@address_option
@json_option
def list_jobs(*, state: str | None, kind: str | None, model: str, limit: int, address: str, as_json: bool) -> None:
    """List jobs, newest first."""
    from serve_app.commands.job_calls import JobClient

    found = JobClient(address).page(state=state or "", kind=kind or "", model=model, page_size=str(limit))
    if as_json:
        click.echo(json.dumps(found))
        return
    from serve_app.commands.screen import console

    console().print(_table(found["jobs"])) if found["jobs"] else click.echo("No jobs.")


@command.command("show")
@click.argument("job_id")
@address_option
@json_option
def show(*, job_id: str, address: str, as_json: bool) -> None:
    """Show one job: where it stands and why, how far it is, what it was asked."""
    from serve_app.commands.job_calls import JobClient

    job = JobClient(address).show(job_id)
    if as_json:
        click.echo(json.dumps(job))
        return
    for name, value in job.items():
        if value not in (None, "", [], {}):
            click.echo(f"{name:16} {value if isinstance(value, str | int | float) else json.dumps(value)}")


@command.command("logs")
@click.argument("job_id")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job is over.")
@click.option("--all", "from_start", is_flag=True, help="From the beginning, not only the end.")
@address_option
@json_option
def logs(*, job_id: str, follow: bool, from_start: bool, address: str, as_json: bool) -> None:
    """Print what the job's program printed. With --json one object for each part that was read."""
    from serve_app.commands.job_calls import JobClient

    jobs, offset = JobClient(address), 0 if from_start else -_LAST_BYTES
    while True:
        part = jobs.log(job_id, offset=offset)
        offset = part["next_offset"]
        _show_part(part, as_json=as_json)
        if part["text"]:
            continue
        if part["is_over"] or not follow:
            return
        time.sleep(FOLLOW_S)


@command.command("cancel")
@click.argument("job_id")
@address_option
@json_option
def cancel(*, job_id: str, address: str, as_json: bool) -> None:
    """Cancel a job: one that waits at once, one that runs within seconds."""
    from serve_app.commands.job_calls import JobClient

    job = JobClient(address).cancel(job_id)
    running = "" if job["state"] == "cancelled" else " It is being stopped."
    click.echo(json.dumps(job) if as_json else f"{job_id} is {job['state']}.{running}")


@command.command("review")
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="Of the last so many days.")
@address_option
@json_option
def review(*, days: int, address: str, as_json: bool) -> None:
    """Show what each value of learning rate, entropy weight and clip range was worth to reinforcements.

    Gain is held-out accuracy after a run minus before it. Runs differ in the other settings too: it is advice.
    """
    from serve_app.commands.job_calls import JobClient

    found = JobClient(address).review(days=days)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["num_runs"]:
        click.echo(f"No reinforcement ended well in the last {days} days.")
        return
    from serve_app.commands.review_table import draw_review
    from serve_app.commands.screen import console

    draw_review(console(), found)


def _submitted(
    ctx: click.Context, request: dict[str, Any], *, wait: bool, address: str, as_json: bool, **options: Any
) -> None:
    """Exit code 1 when it was waited for and did not succeed."""
    from serve_app.commands.job_calls import JobClient
    from serve_app.commands.job_watch import wait_for

    jobs = JobClient(address)
    job = jobs.submit(request | _given(options))
    if wait:
        job = wait_for(lambda: jobs.show(job["id"]))
    click.echo(json.dumps(job) if as_json else f"{job['id']} is {job['state']}. {job['message']}")
    ctx.exit(1 if wait and job["state"] != "succeeded" else 0)


def _show_part(part: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(part))
        return
    if part["num_dropped"]:
        click.echo(f"[headroom] {part['num_dropped']:,} bytes before this are not kept", err=True)
    click.echo(part["text"], nl=False)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _table(jobs: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    from serve_app.commands.job_watch import words
    from serve_app.config.sizes import size_text

    table = Table("job", "kind", "model", "state", "priority", "memory", "node", "attempt", "step")
    for job in jobs:
        steps = f"{job['step']}/{job['num_steps']}" if job["num_steps"] else str(job["step"] or "-")
        cells = (job["id"], job["kind"], job["model"] or "-", words(job), str(job["priority"]))
        table.add_row(*cells, size_text(job["num_bytes"]), job["node"] or "-", str(job["attempt"]), steps)
    return table
