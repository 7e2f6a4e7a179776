"""cluster.yaml, or the arguments Ray Serve took from it, to `Settings`: all problems at once, or none.

Never imports Ray. `load_cluster` reads the whole file, `settings_from_args` what `serve run` hands to a builder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.config.convert import convert
from serve_app.config.crosschecks import cross_problems
from serve_app.config.problems import ConfigError, Location, Problem, did_you_mean, path_text, value_text
from serve_app.config.schema import ClusterArgs
from serve_app.config.serve_file import APPLICATION, IMPORT_PATH, ServeFile
from serve_app.config.settings import Settings
from serve_app.config.validation import problems_of
from serve_app.config.yaml_file import read_text
from serve_app.config.yaml_source import Document, read_document

DIRECTORY_VARIABLE = "HEADROOM_CONFIG_DIR"
"""Where relative paths start when only arguments are known; the working directory when it is not set."""
KIND = "a Ray Serve config"
ARGS_LOCATION: Location = ("applications", 0, "args")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """A whole, checked cluster.yaml: where Serve listens, and the settings of our application.

    `has_ray_certificate`: Ray's own proxy is told to encrypt, which HAProxy is not. `document` and `args_location` lead
    from a setting back to its line.
    """

    path: Path
    host: str
    port: int
    has_ray_certificate: bool
    settings: Settings
    document: Document
    args_location: Location


def load_cluster(path: Path, *, environment: Mapping[str, str] = os.environ) -> ClusterFile:
    """Raises: ConfigError with every problem of the file."""
    document = read_document(read_text(path, kind=KIND), kind=KIND)
    whole = document.data if isinstance(document.data, Mapping) else {}
    problems = [*document.problems, *_serve_problems(document)]
    index = _our_application(whole)
    if index is not None:
        problems += _application_problems(whole["applications"][index], index, document)
    if problems or index is None:
        raise ConfigError(path.name, problems or [_no_application(document)])
    file = ServeFile.model_validate(whole)
    settings = _settings(file.applications[index].args, path.absolute().parent, environment)
    return ClusterFile(
        path=path.absolute(),
        host=file.http_options.host,
        port=file.http_options.port,
        has_ray_certificate=file.http_options.ssl_certfile is not None,
        settings=settings,
        document=document,
        args_location=("applications", index, "args"),
    )


def load_settings(path: Path, *, environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises: ConfigError with every problem of the file."""
    return load_cluster(path, environment=environment).settings


def settings_from_args(
    args: Mapping[str, Any], *, base_dir: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """The settings from `applications[0].args` alone, as a Serve builder gets them.

    Raises: ConfigError; its sentences are those of `load_cluster`, without line numbers.
    """
    document = Document(args)
    problems = _args_problems(args, document, ARGS_LOCATION)
    if problems:
        raise ConfigError("cluster.yaml", problems)
    return _settings(args, base_dir or Path(environment.get(DIRECTORY_VARIABLE) or Path.cwd()), environment)


def _settings(args: Mapping[str, Any], base_dir: Path, environment: Mapping[str, str]) -> Settings:
    return convert(ClusterArgs.model_validate(args), base_dir=base_dir, environment=environment)


def _serve_problems(document: Document) -> list[Problem]:
    """What is wrong outside our arguments."""
    if document.data is None and document.problems:
        return []
    if not isinstance(document.data, Mapping):
        what = f"holds {value_text(document.data)}"
        return [Problem(path="the file", what=what, expected="a mapping with the key applications", line=1)]
    return problems_of(ServeFile, document.data, document, ())


def _args_problems(args: object, document: Document, location: Location) -> list[Problem]:
    found = problems_of(ClusterArgs, args, document, location)
    if isinstance(args, Mapping):
        found += cross_problems(args, document, location)
    return found


def _application_problems(application: Mapping[str, Any], index: int, document: Document) -> list[Problem]:
    """Our application must be ours, and at the root, where every command and client looks for it."""
    args, location = application.get("args"), ("applications", index, "args")
    wanted = {"import_path": IMPORT_PATH, "route_prefix": "/"}
    problems = [
        Problem(
            path=path_text(("applications", index, key)),
            what=f"is {value_text(application[key])}",
            expected=value_text(value),
            line=document.line_of(("applications", index, key)),
        )
        for key, value in wanted.items()
        if key in application and application[key] != value
    ]
    if args is None or isinstance(args, Mapping):  # any other kind of value is a problem already
        problems += _args_problems(args or {}, document, location)
    return problems


def _our_application(whole: Mapping[str, Any]) -> int | None:
    applications = whole.get("applications")
    for index, application in enumerate(applications if isinstance(applications, list) else ()):
        if isinstance(application, Mapping) and application.get("name") == APPLICATION:
            return index
    return None


def _no_application(document: Document) -> Problem:
    applications = document.data.get("applications") or ()
    names = [application.get("name") for application in applications]
    advice = next((hint for name in names if (hint := did_you_mean(name, [APPLICATION]))), "")
    expected = f"an application with name: {APPLICATION} and import_path: {IMPORT_PATH}"
    return Problem(
        path="applications",
        what=f"has the names {value_text(names)}",
        expected=expected,
        advice=advice,
        line=document.line_of(("applications",)),
    )
