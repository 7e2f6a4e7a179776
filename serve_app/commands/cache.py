"""`headroom cache simulate|ttl`: what other times to live would bring, and setting one by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve_app.gateway.cache_simulate import Rates

_TTLS_S = (60.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 86400.0)
_MAX_LOG_BYTES = 2 * 2**30


@click.group("cache")
def command() -> None:
    """What the response cache would do, and how long its answers live."""


@command.command("simulate")
@click.argument("logs", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True)
@click.option("--ttl", "ttls_s", type=click.FloatRange(min=0), multiple=True, help="Seconds; may be given often.")
@click.option("--size", "sizes", multiple=True, default=("64MiB", "256MiB"), show_default=True, help="E.g. 1GiB.")
@click.option("--target", type=click.FloatRange(0, 1), default=0.6, show_default=True, help="Hit rate to reach.")
@json_option
def simulate_command(
    *, logs: tuple[Path, ...], ttls_s: tuple[float, ...], sizes: tuple[str, ...], target: float, as_json: bool
) -> None:
    """Replay recorded traffic (`cache.record_file` in cluster.yaml) at other times to live and sizes.

    Logs of several gateways are joined by their clocks, which must be of one machine.
    """
    from serve_app.config.sizes import size_bytes
    from serve_app.errors import HeadroomError
    from serve_app.gateway.cache_log import LogUnreadable, read_log
    from serve_app.gateway.cache_simulate import bounds, simulate, verdict

    try:
        limits = sorted(size_bytes(size) for size in sizes)
    except ValueError:
        raise click.BadParameter("expected a size such as 256MiB", param_hint="--size") from None
    if sum(log.stat().st_size for log in logs) > _MAX_LOG_BYTES:
        raise HeadroomError("The logs are larger than 2 GiB.", advice="Give fewer.")
    try:
        lookups = [one for log in logs for one in read_log(log.read_text(encoding="utf-8").splitlines())]
    except (LogUnreadable, UnicodeDecodeError) as error:
        raise HeadroomError(f"A log cannot be read: {error}") from error
    if not lookups:
        raise HeadroomError("The logs hold no request.", advice="Set `cache.record_file` and let some come.")
    lookups.sort(key=lambda one: one.at_s)
    runs = [simulate(lookups, ttl_s=ttl, max_bytes=size) for size in limits for ttl in sorted(ttls_s or _TTLS_S)]
    verdicts = [verdict(mode, bound, runs, target=target) for mode, bound in sorted(bounds(lookups).items())]
    if as_json:
        rows = [{"ttl_s": one.ttl_s, "max_bytes": one.max_bytes, "hit_rate": dict(one.by_mode)} for one in runs]
        click.echo(json.dumps({"num_lookups": len(lookups), "runs": rows, "verdicts": verdicts}))
        return
    _draw(runs)
    for sentence in verdicts:
        click.echo(sentence)


@command.command("ttl")
@click.argument("mode")
@click.argument("ttl", metavar="SECONDS|auto")
@address_option
@json_option
def ttl_command(*, mode: str, ttl: str, address: str, as_json: bool) -> None:
    """Pin how long answers of MODE live; 0 turns its cache off, `auto` gives it back to cluster.yaml and tuning."""
    from serve_app.api.wire import TtlView
    from serve_app.commands.asking import post

    try:
        seconds = None if ttl == "auto" else float(ttl)
    except ValueError:
        raise click.BadParameter(f"'{ttl}' is neither a number of seconds nor auto.") from None
    told = post(TtlView, address, "/admin/cache/ttl", {"mode": mode, "ttl_seconds": seconds})
    click.echo(json.dumps(told.model_dump()) if as_json else f"{told.mode}: {told.ttl_seconds:g} s, {told.source}")


def _draw(runs: Sequence[Rates]) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console
    from serve_app.config.sizes import size_text

    modes = sorted({mode for one in runs for mode in one.by_mode})
    table = Table("size", "time to live", *modes, box=None, padding=(0, 2, 0, 0))
    for one in runs:
        size = "any" if one.max_bytes is None else size_text(one.max_bytes)
        ttl = "any" if one.ttl_s is None else f"{one.ttl_s:g} s"
        table.add_row(size, ttl, *(f"{one.by_mode[mode]:.1%}" for mode in modes))
    console().print(table)
