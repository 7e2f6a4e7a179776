"""Shows how models are being made: bars on a terminal, a plain line now and then anywhere else. All on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from serve_app.training.defaults import Progress as Made
from serve_app.training.defaults import Stage

STEPS_PER_LINE = 100


class TrainingProgress:
    """Called with each progress; a context, because bars hold the terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, tuple[Stage, int]] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, TextColumn("{task.fields[what]}"), console=console)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, made: Made) -> None:
        if self._bars is None:
            self._say(made)
            return
        if made.model not in self._tasks:
            self._tasks[made.model] = self._bars.add_task(made.model, total=made.num_steps, what="")
        self._bars.update(self._tasks[made.model], completed=made.step, what=_words(made))

    def _say(self, made: Made) -> None:
        """One line for each stage and for every hundred steps."""
        now = (made.stage, made.step // STEPS_PER_LINE)
        if self._told.get(made.model) != now:
            self._told[made.model] = now
            click.echo(f"{made.model}: {_words(made)}, step {made.step} of {made.num_steps}", err=True)


def _words(made: Made) -> str:
    loss = "" if made.loss is None else f", loss {made.loss:.3f}"
    return f"{made.stage}{loss}"
