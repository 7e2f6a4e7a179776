"""`headroom rollouts`: what was rolled out, how long each stage took, and commands to what is under way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.rollout.views import RolloutView

_PATH = "/v1/rollouts"
_BAR = 40
_OVER = ("finished", "returned", "refused")
_NO_BAR = ("observing", *_OVER)
"""A day of watching would leave no room to see the rest; an end takes no time."""
_TEXTS = {
    "promote": "End the canary or the observation of rollout ID now, or a pause: it goes on to its next stage.",
    "pause": "Hold rollout ID before its next stage; what it does now is done to its end.",
    "resume": "Let a rollout that is held go on.",
}


@click.group("rollouts")
def command() -> None:
    """Show, begin and command rollouts of new weights."""


@command.command("list")
@click.option("--model", help="Of this model only.")
@click.option("--status", help="In this stage only, e.g. finished.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(1), help="Older than this id.")
@address_option
@json_option
def list_(
    *, model: str | None, status: str | None, limit: int, before: int | None, address: str, as_json: bool
) -> None:
    """List rollouts, newest first."""
    from serve_app.commands.asking import get
    from serve_app.rollout.views import RolloutsView

    asked = {"model": model, "status": status, "limit": limit, "before": before}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    view = get(RolloutsView, address, f"{_PATH}?{query}")
    if as_json:
        click.echo(json.dumps(view.model_dump()))
    elif not view.rollouts:
        click.echo("No rollouts.")
    else:
        _draw_list(view.rollouts)


@command.command("show")
@click.argument("rollout_id", metavar="ID", type=click.IntRange(1))
@address_option
@json_option
def show(*, rollout_id: int, address: str, as_json: bool) -> None:
    """Show rollout ID with the time each of its stages took."""
    from serve_app.commands.asking import get
    from serve_app.rollout.views import RolloutView

    _print(get(RolloutView, address, f"{_PATH}/{rollout_id}"), as_json=as_json)


@command.command("deploy")
@click.argument("model")
@click.option("--checkpoint", help="By its name, e.g. checkpoint-400.")
@click.option("--weights-version", help="By the twelve digits of its digest.")
@click.option("--mode", type=click.Choice(["auto", "in_place", "side_by_side"]), default="auto", show_default=True)
@click.option("--observe", help="How long to watch the new weights, e.g. 90s or 1h. As configured when left out.")
@address_option
@json_option
def deploy(
    *,
    model: str,
    checkpoint: str | None,
    weights_version: str | None,
    mode: str,
    observe: str | None,
    address: str,
    as_json: bool,
) -> None:
    """Roll a checkpoint out to everything that serves MODEL.

    Exit code 0: begun, 1: refused, 3: nothing answers.
    """
    body: dict[str, str | float] = {"model": model, "mode": mode}
    body |= {"checkpoint": checkpoint} if checkpoint else {}
    body |= {"weights_version": weights_version} if weights_version else {}
    body |= {"observe_s": _seconds(observe)} if observe else {}
    _print(_post(address, _PATH, body), as_json=as_json)


@command.command("rollback")
@click.argument("rollout_id", metavar="ID", type=click.IntRange(1))
@click.option("--full", is_flag=True, help="Configuration and state of its backup too, not the weights alone.")
@address_option
@json_option
def rollback(*, rollout_id: int, full: bool, address: str, as_json: bool) -> None:
    """Bring the weights of before rollout ID back.

    One under way returns; after a finished one it is a rollout of its own.
    """
    body = {"kind": "full" if full else "quick"}
    _print(_post(address, f"{_PATH}/{rollout_id}/rollback", body), as_json=as_json)


def _commanding(name: str) -> click.Command:
    @click.argument("rollout_id", metavar="ID", type=click.IntRange(1))
    @address_option
    @json_option
    def act(*, rollout_id: int, address: str, as_json: bool) -> None:
        _print(_post(address, f"{_PATH}/{rollout_id}/{name}", {}), as_json=as_json)

    return click.command(name, help=_TEXTS[name])(act)


for _name in _TEXTS:
    command.add_command(_commanding(_name))


def _post(address: str, path: str, body: object) -> RolloutView:
    from serve_app.commands.asking import post
    from serve_app.rollout.views import RolloutView

    return post(RolloutView, address, path, body)


def _seconds(text: str) -> float:
    from serve_app.config.durations import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is no duration. Write 90s, 30m or 1d.", param_hint="--observe") from error


def _print(view: RolloutView, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(view.model_dump()))
    else:
        _draw(view)


def _draw_list(rollouts: tuple[RolloutView, ...]) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    titles = ("id", "asked", "model", "step", "weights", "score", "way", "status", "took", "why")
    table = Table(*titles, box=None, padding=(0, 1))
    for one in rollouts:
        table.add_row(
            str(one.deployment_id),
            _when(one.asked_unix_s),
            one.model,
            _or_dash(one.checkpoint_step),
            f"{one.from_weights[:6]}→{one.to_weights[:6]}",
            _or_dash(None if one.score is None else f"{one.score:.1%}"),
            _or_dash(one.way),
            f"{one.status} (held)" if one.is_paused else one.status,
            _took(sum(stage.spent_s for stage in one.stages)),
            one.reason,
        )
    console().print(table)


def _draw(one: RolloutView) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    out = console()
    held = ", held" if one.is_paused else ""
    out.print(f"Rollout {one.deployment_id} of {one.model}: {one.status}{held}", markup=False)
    for name, value in _facts(one):
        out.print(f"  {name:<12} {value}", markup=False)
    table = Table("stage", "began", "took", "", box=None, padding=(0, 1))
    total_s = sum(stage.spent_s for stage in one.stages if stage.stage not in _NO_BAR) or 1.0
    before_s = 0.0
    for stage in one.stages:
        took = "" if stage.stage in _OVER else _took(stage.spent_s)
        if stage.stage in _NO_BAR:
            table.add_row(stage.stage, _when(stage.began_unix_s), took, "")
            continue
        bar = _bar(before_s / total_s, stage.spent_s / total_s)
        table.add_row(stage.stage, _when(stage.began_unix_s), took, bar)
        before_s += stage.spent_s
    out.print(table)


def _facts(one: RolloutView) -> list[tuple[str, str]]:
    """What is known of it; the rest has no line."""
    facts = [
        ("asked by", f"{one.asked_by} ({one.kind}, {one.mode})"),
        ("weights", f"{one.from_weights} → {one.to_weights} ({one.checkpoint})"),
        ("score", "" if one.score is None else f"{one.score:.1%}"),
        ("made by", " ".join(filter(None, (one.config_hash and f"config {one.config_hash[:12]}", one.git_commit)))),
        ("way", _way(one)),
        ("shipped", _shipped(one)),
        ("canary", "" if one.canary_accuracy is None else f"{one.canary_accuracy:.1%} of the test set"),
        ("gates closed", "" if one.closed_s is None else _took(one.closed_s)),
        ("checks", _checks(one)),
        ("memory", "" if one.reload_vram_gb is None else f"{one.reload_vram_gb:.2f} GiB"),
        ("backup", one.backup or ""),
        ("trace", one.trace_id or ""),
        ("why", f"{one.trigger}: {one.reason}" if one.trigger else one.reason),
        ("late", "the old weights were not back in time" if one.is_late else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _checks(one: RolloutView) -> str:
    """How many of each, and those that did not pass with their reason."""
    if one.checks is None:
        return ""
    counts = ", ".join(
        f"{num} {status}"
        for status in ("PASS", "FAIL", "SKIP")
        if (num := sum(found.status == status for found in one.checks))
    )
    told = [f"{found.check} {found.status}: {found.reason}" for found in one.checks if found.status != "PASS"]
    return "; ".join([counts, *told])


def _way(one: RolloutView) -> str:
    if one.way is None or one.room is None:
        return one.way or ""
    needed, free = one.room.needed_bytes / 2**30, one.room.free_bytes / 2**30
    return f"{one.way}: one more replica needs {needed:.2f} GiB, {free:.2f} GiB are free"


def _shipped(one: RolloutView) -> str:
    if one.shipped_bytes is None or one.transfer_duration_sec is None:
        return ""
    rate = one.shipped_bytes / 1e6 / max(one.transfer_duration_sec, 1e-9)
    return f"{one.shipped_bytes / 1e6:.1f} MB in {_took(one.transfer_duration_sec)} ({rate:.0f} MB/s)"


def _bar(before: float, part: float) -> str:
    """One column at least, so that no stage is lost."""
    begins = min(_BAR - 1, round(before * _BAR))
    return " " * begins + "█" * max(1, min(_BAR - begins, round(part * _BAR)))


def _took(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _when(unix_s: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(unix_s).astimezone().strftime("%m-%d %H:%M:%S")


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)
