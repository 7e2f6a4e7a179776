"""Whether every `source` of cluster.yaml can be opened, asked before anything starts. Reads names, never weights."""

from __future__ import annotations

from serve_app.config.load import ClusterFile
from serve_app.config.problems import ConfigError, Problem, path_text, value_text
from serve_app.errors import CheckpointRefused


def check_sources(cluster: ClusterFile) -> None:
    """Default models are made on first use and pass; directories must be checkpoints below the allowed roots.

    Raises: ConfigError with one problem for each source that is refused.
    """
    from serve_app.training.sources import resolve_source

    problems = []
    for index, model in enumerate(cluster.settings.models):
        if model.source.startswith("default:"):
            continue
        try:
            resolve_source(model.source, storage=cluster.settings.storage)
        except CheckpointRefused as refusal:
            location = (*cluster.args_location, "models", index, "source")
            what = f"is {value_text(model.source)}: {refusal}".rstrip(".")
            line = cluster.document.line_of(location)
            problems.append(Problem(path=path_text(location), what=what, expected="", line=line))
    if problems:
        raise ConfigError(cluster.path.name, problems)
