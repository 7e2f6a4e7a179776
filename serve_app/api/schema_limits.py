"""Limits on JSON schemas in requests: an engine compiles them into automata, so size must be bounded first.

Used for `response_format` and for the parameters of tools. Pure.
"""

from __future__ import annotations

import re
from typing import Any

MAX_SCHEMA_DEPTH = 24
MAX_SCHEMA_NODES = 2_000
MAX_PATTERN_CHARS = 256
MAX_REPETITION = 256
"""Largest count in a pattern or in `minItems`, `maxLength`, ...: each one is a copy of states."""

_COUNT_KEYS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")
_NESTED = re.compile(r"[*+}]\)[*+{]")


def schema_problem(schema: Any) -> str | None:
    """Why this schema is refused, or None. Walks without recursion, so depth cannot hurt."""
    waiting = [(schema, 0)]
    num_nodes = 0
    while waiting:
        node, depth = waiting.pop()
        num_nodes += 1
        if num_nodes > MAX_SCHEMA_NODES:
            return f"the schema has more than {MAX_SCHEMA_NODES} parts"
        if depth > MAX_SCHEMA_DEPTH:
            return f"the schema is nested deeper than {MAX_SCHEMA_DEPTH}"
        if isinstance(node, list):
            waiting.extend((item, depth + 1) for item in node)
        elif isinstance(node, dict):
            for key, value in node.items():
                problem = _entry_problem(key, value)
                if problem is not None:
                    return problem
                waiting.append((value, depth + 1))
    return None


def _entry_problem(key: str, value: Any) -> str | None:
    if key in _COUNT_KEYS and isinstance(value, int | float) and value > MAX_REPETITION:
        return f"`{key}` is larger than {MAX_REPETITION}"
    if key == "pattern" and isinstance(value, str):
        return _pattern_problem(value)
    if key == "patternProperties" and isinstance(value, dict):
        return next((problem for name in value if (problem := _pattern_problem(name))), None)
    if key == "$ref" and not (isinstance(value, str) and value.startswith("#")):
        return "`$ref` may only point inside the schema"
    return None


def _pattern_problem(pattern: str) -> str | None:
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"a pattern is longer than {MAX_PATTERN_CHARS} characters"
    counts = [int(count) for pair in _COUNTS.findall(pattern) for count in pair if count]
    if any(count > MAX_REPETITION for count in counts):
        return f"a pattern repeats more than {MAX_REPETITION} times"
    if _NESTED.search(pattern):
        return "a pattern repeats a group that repeats"
    return None
