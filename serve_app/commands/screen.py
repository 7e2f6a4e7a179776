"""How commands draw: one console whose width does not depend on a pipe, bytes and verdicts in one form."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

PIPED_WIDTH = 150
"""Columns when stdout is no terminal; rich would fall back to 80 and cut names."""


def console() -> Console:
    probe = Console()
    return probe if probe.is_terminal else Console(width=PIPED_WIDTH, highlight=False)


def verdict(passes: bool) -> Text:
    return Text("PASS", style="green") if passes else Text("FAIL", style="bold red")
