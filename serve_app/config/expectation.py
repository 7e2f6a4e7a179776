"""From a node of a JSON Schema to the words for what it takes: `one of: auto, cuda, host`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.config.problems import Location
from serve_app.config.schema_types import EXPECTED

Schema = Mapping[str, Any]

_TYPE_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}


def node_at(root: Schema, location: Location) -> Schema:
    """The schema of the value at `location`; an empty one when the schema has no such place."""
    node = _resolved(root, root)
    for step in location:
        node = _resolved(root, _child(node, step))
    return node


def valid_keys(node: Schema) -> tuple[str, ...]:
    return tuple(node.get("properties", ()))


def valid_words(node: Schema) -> tuple[str, ...]:
    """The closed set of a choice; empty for any other kind of value."""
    return tuple(str(word) for word in node.get("enum", [node["const"]] if "const" in node else ()))


def expectation(node: Schema) -> str:
    """The valid set or range in words, without a full stop; empty when the schema does not restrict the value."""
    if EXPECTED in node:
        return str(node[EXPECTED])
    if valid_words(node):
        return f"one of: {', '.join(valid_words(node))}"
    kind = node.get("type")
    if kind == "object":
        keys = valid_keys(node)
        return f"a mapping with the keys {', '.join(keys)}" if keys else "a mapping"
    if kind == "array":
        most = f", at most {node['maxItems']:,}" if "maxItems" in node else ""
        return f"a list with at least one entry{most}" if node.get("minItems") else "a list"
    return f"{_TYPE_WORDS.get(str(kind), '')}{_range(node)}{' or null' if node.get('nullable') else ''}".strip()


def _range(node: Schema) -> str:
    low, above, high = (node.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None:
        return f" from {_number(low)}" + (f" to {_number(high)}" if high is not None else " upwards")
    if above is not None:
        return f" greater than {_number(above)}" + (f", at most {_number(high)}" if high is not None else "")
    return f" up to {_number(high)}" if high is not None else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _child(node: Schema, step: str | int) -> Schema:
    if isinstance(step, int):
        found = node.get("items", {})
    else:
        others = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties", {}))
        found = node.get("properties", {}).get(step, others)
    return found if isinstance(found, Mapping) else {}


def _resolved(root: Schema, node: Schema) -> Schema:
    """Follows `$ref`, and unwraps `X or null` to X, marked as nullable."""
    if "$ref" in node:
        return _resolved(root, root["$defs"][node["$ref"].rsplit("/", 1)[1]])
    options = node.get("anyOf", ())
    real = [option for option in options if option.get("type") != "null"]
    if len(real) == 1 and len(options) == 2:
        return {**_resolved(root, real[0]), "nullable": True}
    return node
