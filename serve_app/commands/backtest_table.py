"""A backtest as tables: detectors side by side, then the forecast's outcome for each story."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from placement.backtest import Judged, Score, score, scores_by_story

LEADS = {"p10": 0.1, "median": 0.5, "p90": 0.9}


def draw_backtest(console: Console, judged: dict[str, list[Judged]], *, horizon_s: float, threshold: float) -> None:
    scores = {name: score(lives) for name, lives in judged.items()}
    ours = next(iter(scores))
    total = scores[ours]
    head = f"  {total.num_lives} lives of devices, {total.device_days:.1f} device-days, {total.num_failures} failures"
    console.print(
        Text.assemble("\n", (ours, "bold"), f", horizon {horizon_s / 60:g} min, threshold {threshold:g}\n", head)
    )
    console.print(_table("detector", scores))
    console.print()
    console.print(_table(f"{ours}, by story", scores_by_story(judged[ours])))
    console.print(
        Text("  lead in minutes, false alarms per device-day; right: it failed within the horizon", style="dim")
    )


def _table(heading: str, scores: dict[str, Score]) -> Table:
    table = Table(Column(heading, no_wrap=True), box=None, padding=(0, 1, 0, 1), show_edge=False)
    names = ("lives", "failures", "caught", "recall", "alarms", "right", "early", "precision", "false/day")
    for name in (*names, *(f"lead {fraction}" for fraction in LEADS)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, one in scores.items():
        table.add_row(name, *_row(one))
    return table


def _row(one: Score) -> tuple[str, ...]:
    counts = (one.num_lives, one.num_failures, one.num_caught), (one.num_alarms, one.num_right, one.num_early)
    per_day = one.false_alarms_per_device_day
    return (
        *map(str, counts[0]), _share(one.recall), *map(str, counts[1]), _share(one.precision),
        "-" if per_day is None else f"{per_day:.3f}",
        *(_minutes(one.lead_s(fraction)) for fraction in LEADS.values()),
    )  # fmt: skip


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def as_json_value(judged: dict[str, list[Judged]], *, horizon_s: float, threshold: float) -> dict[str, Any]:
    return {
        "horizon_s": horizon_s,
        "threshold": threshold,
        "detectors": {
            name: {
                "overall": _score_value(score(lives)),
                "stories": {story: _score_value(one) for story, one in scores_by_story(lives).items()},
            }
            for name, lives in judged.items()
        },
    }


def _score_value(one: Score) -> dict[str, Any]:
    return {
        "num_lives": one.num_lives,
        "device_days": round(one.device_days, 3),
        "num_failures": one.num_failures,
        "num_caught": one.num_caught,
        "recall": one.recall,
        "num_alarms": one.num_alarms,
        "num_right": one.num_right,
        "num_early": one.num_early,
        "precision": one.precision,
        "false_alarms_per_device_day": one.false_alarms_per_device_day,
        "lead_s": {name: one.lead_s(fraction) for name, fraction in LEADS.items()},
    }
