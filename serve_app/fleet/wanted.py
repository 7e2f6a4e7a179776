"""What cluster.yaml asks for, as demands, without a running cluster; every fault is a problem of the file.

A default model that was not made yet is estimated from the table of the trainer, exact to the byte.
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

DEFAULT_PREFIX = "default:"


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
    from serve_app.training.defaults import default_config, is_made
    from serve_app.training.sources import resolve_source

    name = model.source.removeprefix(DEFAULT_PREFIX)
    if model.source.startswith(DEFAULT_PREFIX) and not is_made(name, home=settings.storage.home):
        spec = spec_of(default_config(name), dtype=model.dtype, origin=model.source)
        return demand_from_spec(model, spec, weights_bytes=weights_bytes_from_config(spec), kind=kind)
    return demand_of(model, settings, resolve_source(model.source, storage=settings.storage), kind=kind)


def _with_line(problem: Problem, cluster: ClusterFile, index: int) -> Problem:
    """The problem with its full path and its line; the key is the last step of its path."""
    location = (*cluster.args_location, "models", index, problem.path.rpartition(".")[2])
    return replace(problem, path=path_text(location), line=cluster.document.line_of(location))
