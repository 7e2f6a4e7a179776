"""Values that a JSON Schema allows, for the few words of it that our OpenAPI document uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
"""Anything, NaN and infinities too."""
_MOST = 3
_LARGE = 2**53


def valid(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Small values that keep to the schema. Raises: KeyError for a type it does not know."""
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for union in ("oneOf", "anyOf"):
        if union in schema:
            return st.one_of([valid(one) for one in schema[union]])
    return _OF_TYPE[schema["type"]](schema)


def nearly_valid(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """An object of the schema in which one property, known or not, is anything at all."""
    names = st.sampled_from(sorted(schema.get("properties", {})) or ["x"]) | st.text(max_size=8)
    return st.builds(lambda good, name, bad: {**good, name: bad}, valid(schema), names, JSON)


def _integer(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """The ends come often: there the document and the check differ if anywhere."""
    low, high = schema.get("minimum", -_LARGE), schema.get("maximum", _LARGE)
    return st.sampled_from([low, high]) | st.integers(low, high)


def _number(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -_LARGE))
    return st.floats(low, schema.get("maximum", _LARGE), exclude_min="exclusiveMinimum" in schema, allow_nan=False)


def _list(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    most = min(schema.get("maxItems", _MOST), _MOST)
    return st.lists(valid(schema.get("items", {"type": "string"})), min_size=schema.get("minItems", 0), max_size=most)


def _object(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    properties, needed = schema.get("properties", {}), schema.get("required", ())
    if not properties:
        free = schema.get("additionalProperties")
        values = valid(free) if isinstance(free, Mapping) else st.text(max_size=8)
        names = st.integers(0, 300).map(str) if "propertyNames" in schema else st.text(max_size=8)
        return st.dictionaries(names, values, max_size=_MOST)
    return st.fixed_dictionaries(
        {name: valid(properties[name]) for name in needed},
        optional={name: valid(one) for name, one in properties.items() if name not in needed},
    )


_OF_TYPE = {
    "null": lambda _: st.none(),
    "boolean": lambda _: st.booleans(),
    "integer": _integer,
    "number": _number,
    "string": lambda one: st.text(min_size=one.get("minLength", 0), max_size=min(one.get("maxLength", 20), 20)),
    "array": _list,
    "object": _object,
}
