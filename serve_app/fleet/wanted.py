"""What cluster.yaml asks for, as demands, without a running cluster; every fault is a problem of the file.

A default model that was not made yet is estimated from the recipe of the trainer, exact to the byte.
"""

from __future__ import annotations

from dataclasses import replace

from placement.demand import Demand
from placement.estimate import weights_bytes_from_config
from placement.inventory import DeviceKind
from serve_app.config.load import ClusterFile
from serve_app.config.problems import ConfigError, Problem, path_text, value_text
from serve_app.config.settings import ModelSettings, Settings
from serve_app.errors import CheckpointRefused, ModelUnsupported
from serve_app.fleet.demands import demand_from_spec, demand_of, spec_of
from serve_app.fleet.measurements import measurement_key, read_measurement, shape_digest
from serve_app.fleet.unmade import unmade_config
from serve_app.training.deployed import latest_checkpoint
from serve_app.training.sources import DEFAULT_SCHEME, models_folder, resolve_source


def wanted(cluster: ClusterFile, *, kind: DeviceKind) -> tuple[Demand, ...]:
    """One demand for each model of the file. Raises: ConfigError with the problems of all models."""
    demands: list[Demand] = []
    problems: list[Problem] = []
    for index, model in enumerate(cluster.settings.models):
        try:
            demands.append(_demand(model, cluster.settings, kind))
        except ConfigError as error:
            problems += [_with_line(problem, cluster, index) for problem in error.problems]
        except (CheckpointRefused, ModelUnsupported) as error:
            what = f"is {value_text(model.source)}: {error}".rstrip(".")
            problem = Problem(path=f"{model.path}.source", what=what, expected="")
            problems.append(_with_line(problem, cluster, index))
    if problems:
        raise ConfigError(cluster.path.name, problems)
    return tuple(demands)


def _demand(model: ModelSettings, settings: Settings, kind: DeviceKind) -> Demand:
    name = model.source.removeprefix(DEFAULT_SCHEME)
    folder = models_folder(settings.storage.home) / name
    if model.source.startswith(DEFAULT_SCHEME) and latest_checkpoint(folder) is None:
        spec = spec_of(unmade_config(name), dtype=model.dtype, origin=model.source)
        return demand_from_spec(model, spec, weights_bytes=weights_bytes_from_config(spec), kind=kind)
    checkpoint = resolve_source(model.source, storage=settings.storage)
    key = measurement_key(model, shape_digest(checkpoint), kind)
    measured = read_measurement(settings.storage.home, key)
    return demand_of(model, settings, checkpoint, kind=kind, measured=measured)


def _with_line(problem: Problem, cluster: ClusterFile, index: int) -> Problem:
    """The problem with its full path and its line; the key is the last step of its path."""
    location = (*cluster.args_location, "models", index, problem.path.rpartition(".")[2])
    return replace(problem, path=path_text(location), line=cluster.document.line_of(location))
