"""From pydantic's findings to our problems: the key as in the file, the value, the valid set, a suggestion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serve_app.config.expectation import Schema, expectation, node_at, valid_keys, valid_words
from serve_app.config.problems import Location, Problem, did_you_mean, path_text, value_text
from serve_app.config.yaml_source import Document

_KEY_ITSELF = "[key]"
"""pydantic's last step when it is the key of a mapping that is wrong, not the value."""


def problems_of(model: type[BaseModel], data: object, document: Document, prefix: Location) -> list[Problem]:
    """Everything wrong with `data`, which stands at `prefix` of the document, by the schema of `model`."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        schema = model.model_json_schema()
        found = error.errors(include_url=False, include_context=False)
        return list(_problems(found, schema, document, prefix))
    return []


def _problems(found: list[ErrorDetails], schema: Schema, document: Document, prefix: Location) -> Iterator[Problem]:
    for detail in found:
        location: Location = tuple(detail["loc"])
        what, expected, advice = _sentence(detail, location, schema)
        shown = location[:-1] if location[-1:] == (_KEY_ITSELF,) else location
        full = prefix + shown
        yield Problem(path=path_text(full), what=what, expected=expected, advice=advice, line=document.line_of(full))


def _sentence(detail: ErrorDetails, location: Location, schema: Schema) -> tuple[str, str, str]:
    """What is wrong, what was expected, and a suggestion."""
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        keys = valid_keys(node_at(schema, location[:-1]))
        return "is an unknown key", f"one of: {', '.join(keys)}", did_you_mean(location[-1], keys)
    if detail["type"] == "invalid_key":
        return "is not a text key", "text; put it in quotes", ""
    if location[-1:] == (_KEY_ITSELF,):
        return "is no valid name", expectation(_key_schema(node_at(schema, location[:-2]))), ""
    node = node_at(schema, location)
    if detail["type"] == "missing":
        return "is missing", expectation(node), ""
    expected = expectation(node) or detail["msg"]
    if detail["type"] == "too_long" and isinstance(value, list):
        return f"has {len(value):,} entries", expected, ""
    return f"is {value_text(value)}", expected, did_you_mean(value, valid_words(node))


def _key_schema(node: Schema) -> Schema:
    """What a mapping with free keys takes as a key."""
    names: Mapping[str, Any] = node.get("propertyNames", {})
    pattern = next(iter(node.get("patternProperties", ())), None)
    return names or {"x-expected": f"text like {pattern}"}
