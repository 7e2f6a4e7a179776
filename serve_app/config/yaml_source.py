"""A YAML text as data, plus the line each key stands on, plus what YAML itself lets pass but we do not.

Knows nothing of our schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from serve_app.config.problems import Location, Problem, path_text

MAX_NODES = 100_000
"""More than this is no configuration: ends alias bombs before they are expanded."""


@dataclass(frozen=True, slots=True)
class Document:
    """`lines` counts from 1; `data` is None when `problems` say why."""

    data: Any
    lines: dict[Location, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def line_of(self, location: Location) -> int | None:
        """The line of the key, or of the nearest key above it that the file has."""
        while location:
            if location in self.lines:
                return self.lines[location]
            location = location[:-1]
        return None


def read_document(text: str, *, kind: str = "a YAML document") -> Document:
    """Parses one YAML document; a syntax error is a problem, not an exception. `kind`: what an empty one should be."""
    try:
        loader = yaml.SafeLoader(text)  # parsed once: the same nodes give the lines and the data
        root = loader.get_single_node()
        if root is None:
            return Document(None, problems=(_whole_file("is empty", kind),))
        lines: dict[Location, int] = {}
        problems = tuple(_walk(root, (), lines, set()))
        return Document(loader.construct_document(root), lines, problems)
    except yaml.YAMLError as error:
        return Document(None, problems=(_syntax_problem(error),))
    except _TooLarge:
        return Document(None, problems=(_whole_file("is too large", f"at most {MAX_NODES} values"),))


class _TooLarge(Exception):
    pass


def _walk(node: yaml.Node, here: Location, lines: dict[Location, int], above: set[int]) -> Iterator[Problem]:
    """Records the line of every key below `node`; yields one problem for each key that comes twice."""
    if len(lines) > MAX_NODES or id(node) in above:
        raise _TooLarge
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*here, index)] = item.start_mark.line + 1
            yield from _walk(item, (*here, index), lines, above)
    elif isinstance(node, yaml.MappingNode):
        yield from _walk_mapping(node, here, lines, above)


def _walk_mapping(
    node: yaml.MappingNode, here: Location, lines: dict[Location, int], above: set[int]
) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        location: Location = (*here, key)
        if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
            what = f"appears twice, on lines {seen[key]} and {line}"
            yield Problem(path=path_text(location), what=what, expected="each key once", line=line)
        seen.setdefault(key, line)
        lines[location] = line
        yield from _walk(value_node, location, lines, above)


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    column = f" at column {mark.column + 1}" if mark else ""
    return Problem(
        path="the file",
        what=f"is not valid YAML{column}: {reason}",
        expected="",
        advice="Look at the indentation, quotes and colons there.",
        line=mark.line + 1 if mark else None,
    )


def _whole_file(what: str, expected: str) -> Problem:
    return Problem(path="the file", what=what, expected=expected)
