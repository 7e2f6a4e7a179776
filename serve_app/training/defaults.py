"""The three models that the product makes by itself on first use, and the making of them.

Safe with several processes at once and after a kill: one lock per model, checkpoints whole or absent.
Imports nothing heavy until a model has to be trained.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from serve_app.errors import CheckpointRefused, ModelNotMade
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import latest_checkpoint, read_deployed, write_deployed
from serve_app.training.folder_lock import locked
from serve_app.training.recipe import Recipe
from serve_app.training.sources import models_folder
from serve_app.training.writer import Origin, clear_partial, write_checkpoint

DEFAULT_MODELS: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        recipe.model: recipe
        for recipe in (
            Recipe(
                model="mini",
                hidden_size=96,
                num_layers=3,
                num_heads=3,
                intermediate_size=256,
                num_steps=150,
                learning_rate=8e-3,
                bfloat16=True,
            ),
            Recipe(
                model="small",
                hidden_size=128,
                num_layers=5,
                num_heads=4,
                intermediate_size=352,
                num_steps=240,
                learning_rate=7e-3,
                bfloat16=True,
            ),
            Recipe(
                model="base",
                hidden_size=256,
                num_layers=4,
                num_heads=8,
                intermediate_size=960,
                num_steps=380,
                learning_rate=6e-3,
                bfloat16=True,
            ),
        )
    }
)
"""0.36, 1.05 and 4.08 million parameters; accuracies and times are in DESIGN.md."""


class Stage(StrEnum):
    WAITING = "waiting"
    """Another process makes this model."""
    TRAINING = "training"
    TESTING = "testing"
    WRITING = "writing"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`step` of `num_steps` are done; `loss` is the last known, None before the first report."""

    model: str
    stage: Stage
    step: int
    num_steps: int
    loss: float | None = None


def ensure_default_model(
    name: str, *, home: Path, progress: Callable[[Progress], None], force: bool = False, traceparent: str | None = None
) -> Path:
    """The checkpoint of a default model below `home/models`, trained now if there is none that is whole.

    A second call returns at once. `force` trains again whatever is there. Takes up to two minutes of one core.
    Raises: ModelNotMade if there is no such model, or if its folder cannot be written (a full disk among it).
    """
    return ensure_model(
        default_recipe(name), folder=models_folder(home) / name, progress=progress, force=force, traceparent=traceparent
    )


def default_recipe(name: str) -> Recipe:
    """Raises: ModelNotMade naming the models there are."""
    if name not in DEFAULT_MODELS:
        raise ModelNotMade(
            f"There is no default model {name!r}.",
            expected=f"Expected one of: {', '.join(DEFAULT_MODELS)}.",
            advice="Models of your own are named by the path of their checkpoint.",
        )
    return DEFAULT_MODELS[name]


def ensure_model(
    recipe: Recipe,
    *,
    folder: Path,
    progress: Callable[[Progress], None],
    force: bool = False,
    traceparent: str | None = None,
) -> Path:
    """`ensure_default_model` for any recipe and folder."""

    def tell(stage: Stage, step: int = recipe.num_steps, loss: float | None = None) -> None:
        progress(Progress(model=recipe.model, stage=stage, step=step, num_steps=recipe.num_steps, loss=loss))

    made = None if force else whole_checkpoint(folder)
    if made is None:
        try:
            with locked(folder, on_wait=lambda: tell(Stage.WAITING, 0)):
                clear_partial(folder)
                made = None if force else whole_checkpoint(folder)
                if made is None:
                    made = _make(recipe, folder, tell, traceparent)
                    write_deployed(folder, made)
        except OSError as error:
            raise _not_written(recipe, folder, error) from error
    tell(Stage.READY)
    return made


def whole_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in `folder` that serves, else the latest, if every byte of it is right; else None."""
    checkpoint = read_deployed(folder) or latest_checkpoint(folder)
    if checkpoint is None:
        return None
    try:
        return verify_checkpoint(checkpoint).path
    except CheckpointRefused:
        return None


def _make(recipe: Recipe, folder: Path, tell: Callable[..., None], traceparent: str | None) -> Path:
    tell(Stage.TRAINING, 0)
    from serve_app.training.answering import answer
    from serve_app.training.evaluate import evaluate
    from serve_app.training.files import write_files
    from serve_app.training.tasks import INSTRUCTION_WORDS, held_out_tasks
    from serve_app.training.tokenizer import build_tokenizer
    from serve_app.training.trainer import repeatable, train

    tokenizer = build_tokenizer(INSTRUCTION_WORDS)
    trained = train(recipe, tokenizer, on_report=lambda report: tell(Stage.TRAINING, report.step, report.loss))
    loss = trained.reports[-1].loss
    tell(Stage.TESTING, loss=loss)
    tasks = held_out_tasks()
    with repeatable(recipe):
        texts = answer(trained.model, tokenizer, tasks)
    tested = evaluate(zip(tasks, texts, strict=True))
    tell(Stage.WRITING, loss=loss)
    origin = Origin(
        model=recipe.model,
        step=recipe.num_steps,
        config_hash=recipe.config_hash,
        seed=recipe.seed,
        created_at=datetime.now(UTC),
        traceparent=traceparent,
    )
    return write_checkpoint(
        folder, origin, fill=lambda directory: write_files(directory, recipe, trained, tokenizer, tested)
    )


def _not_written(recipe: Recipe, folder: Path, error: OSError) -> ModelNotMade:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ModelNotMade(
        f"Model {recipe.model!r} could not be stored in {folder}: {error.strerror or error}.",
        expected="Expected a folder that can be written, with 100 MiB to spare.",
        advice="Free some room there and run the command again; nothing half-done was left."
        if full
        else "Correct its permissions, or choose another home with HEADROOM_HOME.",
    )
