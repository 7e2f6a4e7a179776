"""From a configuration to a course that runs: parent or resume point, sizes, pupil, device. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch

from serve_app.errors import CheckpointRefused, ConfigRefused
from serve_app.training.checkpoints import TRAINER_STATE_NAME, read_manifest
from serve_app.training.course import Course, Orders, Pupil
from serve_app.training.defaults import DEFAULT_MODELS
from serve_app.training.files import WEIGHTS_NAME
from serve_app.training.job_channel import Channel, Surroundings
from serve_app.training.job_config import HEAD_DIM, NOTHING, Dims, JobConfig, ReinforceConfig
from serve_app.training.job_state import JobState, read_job_state
from serve_app.training.manifest import WEIGHTS_VERSION_DIGITS, digest_file
from serve_app.training.parents import Parent, begin_from_nothing, find_parent, open_parent
from serve_app.training.recipe import Recipe
from serve_app.training.reinforced import Reinforced, ReinforceSettings
from serve_app.training.sources import models_folder
from serve_app.training.supervised import Supervised
from serve_app.training.trainer import repeatable

SIZE_FIELDS: Final = ("hidden_size", "num_layers", "intermediate_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a job began from, told by its own checkpoint after a preemption: `deployed` may lead elsewhere by then.

    `job_step` of its steps are done; `history` is the log of them.
    """

    parent: str | None
    begin_step: int
    job_step: int = 0
    config_hash: str | None = None
    history: tuple[Mapping[str, float], ...] = ()


def run_course(config: JobConfig, surroundings: Surroundings, channel: Channel) -> bool:
    """See `Course.run`.

    Raises: CheckpointRefused, ConfigRefused, OSError.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = models_folder(config.home) / config.model
    if surroundings.resume_from is None:
        held = _parent(config, folder, device)
        lineage = Lineage(parent=held.version, begin_step=held.step)
    else:
        held = open_parent(surroundings.resume_from, device=device)
        lineage = read_lineage(surroundings.resume_from)
    recipe = _recipe(config, held)
    orders = _orders(config, surroundings, folder, lineage, recipe)
    with repeatable(recipe):
        course = Course(orders, _pupil(config, held, recipe, lineage.parent), held, channel)
        if surroundings.resume_from is not None:
            course.resume(_state(surroundings.resume_from, lineage, orders, channel))
        return course.run()


def _parent(config: JobConfig, folder: Path, device: torch.device) -> Parent:
    if config.begin != NOTHING:
        return open_parent(find_parent(folder, config.begin), device=device)
    if config.size is None:
        raise ConfigRefused(
            "A job that begins from nothing does not say how large the model is to be.",
            expected="Expected `size`: mini, small, base, or hidden_size, num_layers and intermediate_size.",
            advice="Add `size`, or name a parent with `from`.",
        )
    return begin_from_nothing(_sized(config, _sizes(config.size)), device=device)


def _recipe(config: JobConfig, parent: Parent) -> Recipe:
    """Sizes of the parent, which a `size` of the configuration must agree with."""
    of = parent.model.config
    real = {
        "hidden_size": int(of.hidden_size),
        "num_layers": int(of.num_hidden_layers),
        "intermediate_size": int(of.intermediate_size),
    }
    if config.size is not None and _sizes(config.size) != real:
        raise CheckpointRefused(
            f"The parent {config.begin!r} of {config.model!r} has other sizes than `size` asks for: {real}.",
            expected=f"Expected {_sizes(config.size)}.",
            advice="Leave `size` out to go on with the parent's, or begin from nothing.",
        )
    return _sized(config, real)


def _sizes(size: str | Dims) -> dict[str, int]:
    given: Mapping[str, Any] = size.model_dump() if isinstance(size, Dims) else asdict(DEFAULT_MODELS[size])
    return {name: int(given[name]) for name in SIZE_FIELDS}


def _sized(config: JobConfig, sizes: Mapping[str, int]) -> Recipe:
    return Recipe(
        model=config.model,
        hidden_size=sizes["hidden_size"],
        num_layers=sizes["num_layers"],
        intermediate_size=sizes["intermediate_size"],
        num_heads=sizes["hidden_size"] // HEAD_DIM,
        head_dim=HEAD_DIM,
        num_steps=config.steps,
        learning_rate=config.learning_rate,
        bfloat16=True,
        seed=config.seed,
    )


def _orders(config: JobConfig, surroundings: Surroundings, folder: Path, lineage: Lineage, recipe: Recipe) -> Orders:
    decides = config.model_dump(mode="json", exclude={"home", "begin", "save_every"})
    whole = json.dumps([decides, asdict(recipe), lineage.parent], sort_keys=True)
    return Orders(
        model=config.model,
        models_folder=folder,
        state_folder=surroundings.folder,
        begin_step=lineage.begin_step,
        num_steps=config.steps,
        save_every=config.save_every,
        seed=config.seed,
        config_hash=sha256(whole.encode()).hexdigest()[:WEIGHTS_VERSION_DIGITS],
        parent=lineage.parent,
        traceparent=surroundings.traceparent,
        git_commit=surroundings.git_commit,
        created_at=datetime.now(UTC),
    )


def _pupil(config: JobConfig, held: Parent, recipe: Recipe, version: str | None) -> Pupil:
    """The rows follow from seed and parent: a job that goes on does not see its parent's rows again."""
    data_seed = int(sha256(f"{config.seed} {version}".encode()).hexdigest()[:8], 16)
    if isinstance(config, ReinforceConfig):
        settings = ReinforceSettings(
            num_steps=config.steps,
            learning_rate=config.learning_rate,
            entropy_weight=config.entropy_weight,
            clip_range=config.clip_range,
            num_tasks=config.num_tasks,
            num_answers=config.num_answers,
        )
        return Reinforced(held.model, held.tokenizer, settings, data_seed=data_seed, curriculum=config.learned_from)
    return Supervised(held.model, held.tokenizer, recipe, data_seed=data_seed, curriculum=config.learned_from)


def read_lineage(checkpoint: Path) -> Lineage:
    """Raises: CheckpointRefused if no job of this trainer made the checkpoint."""
    manifest = read_manifest(checkpoint)
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
        if manifest is None:
            raise ValueError("it has no manifest")
        return Lineage(
            parent=manifest.parent,
            begin_step=int(state["begin_step"]),
            job_step=int(state["job_step"]),
            config_hash=manifest.config_hash,
            history=tuple(state["log_history"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_resumable(checkpoint, f"no job of this trainer made it ({error})") from error


def _state(checkpoint: Path, lineage: Lineage, orders: Orders, channel: Channel) -> JobState:
    """What was kept beside the checkpoint, else a beginning with its weights alone, which is told.

    Raises: CheckpointRefused if the checkpoint is of a job with another configuration.
    """
    if lineage.config_hash != orders.config_hash:
        raise _not_resumable(checkpoint, "it was made with another configuration")
    weights = digest_file(checkpoint / WEIGHTS_NAME).sha256
    kept = read_job_state(orders.state_folder, weights_sha256=weights, config_hash=orders.config_hash)
    if kept is not None:
        channel.log(f"Goes on from {checkpoint.name}, {kept.num_done} of {orders.num_steps} steps are done.")
        return kept
    channel.log(
        f"Goes on from {checkpoint.name} with its weights alone, not to the same bytes as without a break: "
        f"{orders.state_folder} holds no state of the optimizer."
    )
    values: dict[str, Any] = {"pupil": {}, "recent": [], "history": list(lineage.history), "accuracy_before": None}
    return JobState(
        num_done=lineage.job_step, weights_sha256=weights, config_hash=orders.config_hash, tensors={}, values=values
    )


def _not_resumable(checkpoint: Path, why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"The job cannot go on from {checkpoint}: {why}.",
        expected="Expected a checkpoint that this very job saved.",
        advice="Submit it as a new job that begins from this checkpoint's weights version.",
    )
