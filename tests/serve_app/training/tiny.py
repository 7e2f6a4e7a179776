"""The smallest model our trainer makes, made once per test run, and copies of it that a test may spoil."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import mkdtemp

from serve_app.training.defaults import Progress, ensure_model
from serve_app.training.recipe import Recipe

TINY = Recipe(
    model="tiny",
    hidden_size=32,
    num_layers=1,
    num_heads=1,
    intermediate_size=64,
    num_steps=4,
    learning_rate=1e-3,
    rows_per_step=2,
    row_tokens=64,
)


def ignore(_: Progress) -> None:
    pass


@cache
def tiny_checkpoint() -> Path:
    """Nobody may change this one."""
    folder = Path(mkdtemp(prefix="headroom-tiny-")) / "tiny"
    return ensure_model(TINY, folder=folder, progress=ignore)


def copy_of_tiny(folder: Path) -> Path:
    """A checkpoint of one's own, `folder/checkpoint-4`."""
    return Path(copytree(tiny_checkpoint(), folder / tiny_checkpoint().name))


def spoiled(folder: Path, spoil: Callable[[Path], object]) -> Path:
    """A copy after `spoil` was given its directory."""
    copy = copy_of_tiny(folder)
    spoil(copy)
    return copy
