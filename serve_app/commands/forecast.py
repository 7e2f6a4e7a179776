"""`headroom forecast`: how well failures are told, on recorded or generated telemetry. Needs no running cluster."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import json_option

if TYPE_CHECKING:
    from placement.backtest import Judged
    from serve_app.fleet.telemetry_file import Telemetry

UNITS_S = {"s": 1, "m": 60, "h": 3600}
RIVALS_C = (80.0, 85.0)
"""Source: THERMAL_WARNING and THERMAL_CRITICAL of row D1."""


class BadFile(click.ClickException):
    """A file that cannot be replayed or written."""

    exit_code = 2


class Seconds(click.ParamType[float]):
    """`90s`, `30m`, `2h`, as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smh])", str(value))
        if found is None or float(found[1]) == 0:
            self.fail(f"'{value}' is no duration above 0. Write it as 90s, 30m or 2h.", param, ctx)
        return float(found[1]) * UNITS_S[found[2]]


@click.group("forecast")
def command() -> None:
    """Judge forecasts of device failures on telemetry, and generate some."""


@command.command("backtest")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--horizon", "horizon_s", type=Seconds(), default="30m", show_default=True, help="How far ahead an alarm speaks."
)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.8,
    show_default=True,
    help="Risk from which a forecast is an alarm.",
)
@json_option
def backtest(file: Path, horizon_s: float, threshold: float, as_json: bool) -> None:
    """Replay FILE (.csv or .parquet) through the forecast and score its alarms.

    Side by side: a fixed temperature, and an ordinary line through temperatures. The format of FILE is in
    serve_app/fleet/DESIGN.md. Exit code 2: FILE is no telemetry.
    """
    from serve_app.commands.backtest_table import as_json_value, draw_backtest
    from serve_app.commands.screen import console
    from serve_app.fleet.telemetry_file import BadTelemetry, read_telemetry

    try:
        telemetry = read_telemetry(file)
    except BadTelemetry as error:
        raise BadFile(str(error)) from error
    judged = _replayed(telemetry, horizon_s=horizon_s, threshold=threshold)
    if as_json:
        click.echo(json.dumps(as_json_value(judged, horizon_s=horizon_s, threshold=threshold), indent=2))
        return
    draw_backtest(console(), judged, horizon_s=horizon_s, threshold=threshold)


def _replayed(telemetry: Telemetry, *, horizon_s: float, threshold: float) -> dict[str, list[Judged]]:
    """What each detector did in each life, ours first."""
    from placement.backtest import our_detector, replay
    from placement.backtest_rivals import least_squares, static_threshold

    judged: dict[str, list[Judged]] = {}
    with click.progressbar(
        telemetry.lives(),
        length=telemetry.num_lives,
        label="replaying",
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    ) as lives:
        for life in lives:
            detectors = {"forecast": our_detector(horizon_s=horizon_s, threshold=threshold)}
            detectors |= {f"{limit_c:.0f} °C": static_threshold(limit_c) for limit_c in RIVALS_C}
            detectors["least squares"] = least_squares(horizon_s=horizon_s)
            for name, one in replay(life, detectors, horizon_s=horizon_s).items():
                judged.setdefault(name, []).append(one)
    return judged


@command.command("generate")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--devices", type=click.IntRange(1, 1024), default=64, show_default=True, help="Devices in all.")
@click.option(
    "--days", type=click.FloatRange(0, 31, min_open=True), default=7.0, show_default=True, help="Days of each."
)
@click.option("--interval", "step_s", type=Seconds(), default="60s", show_default=True, help="From poll to poll.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same file.")
def generate(file: Path, devices: int, days: float, step_s: float, seed: int) -> None:
    """Write telemetry of devices that never existed, with labelled faults, to FILE (.csv or .parquet)."""
    from serve_app.fleet.fault_stories import DAY_S, generated_fleet
    from serve_app.fleet.telemetry_file import MAX_ROWS, BadTelemetry, write_telemetry

    most = devices * days * DAY_S / step_s
    if most > MAX_ROWS:
        raise click.UsageError(
            f"That is up to {most:,.0f} rows; at most {MAX_ROWS:,}. Fewer days, or a longer interval."
        )
    try:
        rows = write_telemetry(file, generated_fleet(num_devices=devices, days=days, step_s=step_s, seed=seed))
    except BadTelemetry as error:
        raise BadFile(str(error)) from error
    click.echo(f"Wrote {rows:,} generated rows of {devices} devices to {file}. They are simulated, seed {seed}.")
