"""Waits for a job and shows how far it is: a bar on a terminal, a plain line now and then elsewhere; all on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LOOK_S = 1.0
OVER = ("succeeded", "failed", "cancelled")
FIGURES = ("loss", "reward_average", "test_accuracy")
"""Of all that a job tells; `headroom jobs show` has the rest."""
Wait = Callable[[float], object]


def wait_for(show: Callable[[], dict[str, Any]], *, wait: Wait = time.sleep) -> dict[str, Any]:
    """The job once it is over. `show` asks for it; `wait` waits between two looks."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return _told_in_lines(show, wait)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[what]}"), console=console) as bars:
        job = show()
        bar = bars.add_task(job["id"], total=None, what="")
        while True:
            bars.update(bar, total=job["num_steps"] or None, completed=job["step"], what=words(job))
            if job["state"] in OVER:
                return job
            wait(LOOK_S)
            job = show()


def _told_in_lines(show: Callable[[], dict[str, Any]], wait: Wait) -> dict[str, Any]:
    """A line whenever its state changes, and for every tenth of its steps."""
    told: object = None
    while True:
        job = show()
        tenth = 10 * job["step"] // job["num_steps"] if job["num_steps"] else 0
        now = (job["state"], job["attempt"], tenth)
        if now != told:
            told = now
            steps = f", step {job['step']} of {job['num_steps']}" if job["num_steps"] else ""
            click.echo(f"{job['id']}: {words(job)}{steps}", err=True)
        if job["state"] in OVER:
            return job
        wait(LOOK_S)


def words(job: dict[str, Any]) -> str:
    """Its state, and its figures or what it waits for."""
    if job["state"] == "queued":
        return f"queued: {job['message']}"
    metrics = job["metrics"]
    figures = ", ".join(f"{name} {metrics[name]:.3f}" for name in FIGURES if name in metrics)
    return f"{job['state']}, {figures}" if figures else str(job["state"])
