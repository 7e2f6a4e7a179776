"""Which checkpoint a model is served from: made on first use when it is one of ours, verified, named by digest."""

from __future__ import annotations

from serve_app.config.settings import ModelSettings, StorageSettings
from serve_app.controller.claims import Weights


def weights_of(model: ModelSettings, storage: StorageSettings) -> Weights:
    """Blocks, for minutes when a default model must be trained first. Raises CheckpointRefused."""
    from serve_app.training.checkpoints import verify_checkpoint
    from serve_app.training.defaults import ensure_default_model
    from serve_app.training.sources import resolve_source

    if model.source.startswith("default:"):
        ensure_default_model(model.source.removeprefix("default:"), home=storage.home, progress=lambda _: None)
    path = resolve_source(model.source, storage=storage)
    verified = verify_checkpoint(path)
    return Weights(path=path, version=verified.weights_version, step=verified.step)
