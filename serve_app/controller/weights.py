"""Which checkpoint a model is served from: made on first use when it is one of ours, verified, named by digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serve_app.config.settings import ModelSettings, StorageSettings
from serve_app.controller.claims import Weights
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.side_by_side import ensure_default_models
from serve_app.training.sources import DEFAULT_SCHEME, resolve_source


def make_defaults(models: Iterable[ModelSettings], storage: StorageSettings) -> None:
    """Train the default models that are not there yet, in processes of their own. Blocks, for minutes if need be.

    Raises ModelNotMade.
    """
    names = [m.source.removeprefix(DEFAULT_SCHEME) for m in models if m.source.startswith(DEFAULT_SCHEME)]
    ensure_default_models(names, home=storage.home, progress=lambda _: None)


def weights_of(model: ModelSettings, storage: StorageSettings, rolled_out: Path | None = None) -> Weights:
    """Blocks while every byte of the checkpoint is read. `rolled_out` goes before what the source names.

    Raises: CheckpointRefused.
    """
    verified = verify_checkpoint(rolled_out or resolve_source(model.source, storage=storage))
    return Weights(path=verified.path, version=verified.weights_version, step=verified.step)
