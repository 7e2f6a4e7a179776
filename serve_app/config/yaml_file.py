"""One YAML file against one schema: what is read, or every problem of the file at once.

For files that are wholly ours (a fleet, a list of demands); cluster.yaml, which is Ray Serve's too, has `load.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from serve_app.config.problems import ConfigError, Problem, value_text
from serve_app.config.validation import problems_of
from serve_app.config.yaml_source import Document, read_document

M = TypeVar("M", bound=BaseModel)


def read_text(path: Path, *, kind: str) -> str:
    """Raises: ConfigError when the file cannot be read; `kind` says what was expected there, e.g. "a fleet file"."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        problem = Problem(path="the file", what=f"cannot be read: {reason}", expected=f"{kind} at this path")
        raise ConfigError(str(path), [problem]) from error


def load_yaml(path: Path, model: type[M], *, kind: str) -> tuple[M, Document]:
    """The file as `model`, and the document that knows its lines. Raises: ConfigError with every problem."""
    document = read_document(read_text(path, kind=kind), kind=kind)
    problems = [*document.problems]
    if isinstance(document.data, Mapping):
        problems += problems_of(model, document.data, document, ())
    elif not problems:
        keys = ", ".join(model.model_fields)
        what = f"holds {value_text(document.data)}"
        problems.append(Problem(path="the file", what=what, expected=f"a mapping with the keys {keys}", line=1))
    if problems:
        raise ConfigError(path.name, problems)
    return model.model_validate(document.data), document
