"""How long a model may take to load before that is worth an alert, by its size (row B11)."""

from __future__ import annotations

from dataclasses import dataclass

from placement.errors import PlacementError
from placement.model_spec import model_spec, num_params
from serve_app.config.settings import ModelSettings, StorageSettings
from serve_app.errors import HeadroomError
from serve_app.fleet.model_files import read_model_files
from serve_app.training.sources import DEFAULT_SCHEME, resolve_source

SMALL_S, MEDIUM_S, LARGE_S = 2.2, 5.5, 16.5
_SMALL_BELOW, _MEDIUM_BELOW = 10**9, 10**10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimit:
    """`problem` says why the size is not known; the limit is then that of large models. Empty: it is known."""

    model: str
    limit_s: float
    problem: str = ""


def load_limit(model: ModelSettings, storage: StorageSettings) -> LoadLimit:
    """Reads the model's config; default models are small whether they are made yet or not."""
    if model.source.startswith(DEFAULT_SCHEME):
        return LoadLimit(model=model.id, limit_s=SMALL_S)
    try:
        files = read_model_files(resolve_source(model.source, storage=storage))
        return LoadLimit(model=model.id, limit_s=limit_s_of(num_params(model_spec(files.config, dtype=model.dtype))))
    except (HeadroomError, PlacementError) as error:
        return LoadLimit(model=model.id, limit_s=LARGE_S, problem=str(error))


def limit_s_of(count: int) -> float:
    """Limit for a model of `count` parameters."""
    if count < _SMALL_BELOW:
        return SMALL_S
    return MEDIUM_S if count < _MEDIUM_BELOW else LARGE_S
