"""`headroom eval`: how much of its test set a model answers right through the live API."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from serve_app.commands.options import json_option
from serve_app.training.evaluate import Evaluation, Score, evaluate
from serve_app.training.tasks import TEST_TASKS_PER_KIND, TaskKind, held_out_tasks

NUM_TEST_TASKS = TEST_TASKS_PER_KIND * len(TaskKind)
QUESTIONS_IN_FLIGHT = 8


@click.command("eval")
@click.argument("model")
@click.option(
    "--base-url",
    envvar="OPENAI_BASE_URL",
    default="http://127.0.0.1:8000/v1",
    show_default=True,
    show_envvar=True,
    help="The OpenAI API to ask.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, NUM_TEST_TASKS),
    default=NUM_TEST_TASKS,
    show_default=True,
    help="Ask only the first tasks of the test set; kinds take turns.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=QUESTIONS_IN_FLIGHT,
    show_default=True,
    help="Questions in flight at once.",
)
@json_option
def command(model: str, base_url: str, limit: int, concurrency: int, as_json: bool) -> None:
    """Ask MODEL (a model or a mode) its test set, greedily, and print the accuracy by kind.

    The tasks are held out: our trainer never learns from them. The cache is bypassed.
    """
    import asyncio

    from serve_app.client.terms import terms_of
    from serve_app.training.live import ask_all

    tasks = held_out_tasks()[:limit]
    with click.progressbar(length=len(tasks), label=f"asking {model}", file=sys.stderr) as bar:

        def on_answer() -> None:
            bar.update(1)

        texts = asyncio.run(
            ask_all(
                tasks,
                model=model,
                base_url=base_url,
                api_key=os.environ.get("OPENAI_API_KEY") or "none",
                concurrency=concurrency,
                on_answer=on_answer,
                trust=terms_of().trust,
            )
        )
    result = evaluate(zip(tasks, texts, strict=True))
    if as_json:
        click.echo(json.dumps(_as_json(model, base_url, result), indent=2))
    else:
        _print(result)


def _as_json(model: str, base_url: str, result: Evaluation) -> dict[str, Any]:
    by_kind = {str(kind): _numbers(score) for kind, score in result.by_kind.items()}
    return {"model": model, "base_url": base_url, "total": _numbers(result.total), "by_kind": by_kind}


def _numbers(score: Score) -> dict[str, float]:
    return {
        "num_right": score.num_right,
        "num_asked": score.num_asked,
        "accuracy": score.accuracy,
        "low": score.low,
        "high": score.high,
    }


def _print(result: Evaluation) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    table = Table(box=None, pad_edge=False)
    table.add_column("KIND")
    for title in ("RIGHT", "ASKED", "ACCURACY", "95 % INTERVAL"):
        table.add_column(title, justify="right")
    for name, score in (*result.by_kind.items(), ("all", result.total)):
        interval = f"{score.low:.0%} to {score.high:.0%}"
        table.add_row(str(name), str(score.num_right), str(score.num_asked), f"{score.accuracy:.0%}", interval)
    console().print(table)
