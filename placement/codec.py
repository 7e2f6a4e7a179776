"""Plans, inventories and demands as JSON and back, strictly: what is unknown, missing or of another type is refused.

Works from the fields and annotations of the dataclasses, so a new field needs no line here. Enums are their
values, tuples are lists, sets are sorted lists. A field with a default may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from placement.demand import Demand
from placement.errors import DecodeError
from placement.inventory import Inventory
from placement.plan import Plan

JsonValue = Any
"""dict, list, str, int, float, bool or None: what `json.loads` gives."""

T = TypeVar("T")


def to_json_value(value: object) -> JsonValue:
    """A dataclass of this package as plain JSON values."""
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return [to_json_value(item) for item in value]
        case frozenset():
            return sorted(to_json_value(item) for item in value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: to_json_value(getattr(value, field.name)) for field in fields(value)}
    raise AssertionError(f"{type(value).__name__} is no value of a plan")


def from_json_value(kind: type[T], value: JsonValue, *, path: str = "") -> T:
    """The dataclass `kind` from plain JSON values. Raises: DecodeError with the path of the first fault."""
    decoded: T = _decode(kind, value, path)
    return decoded


def plan_to_json(plan: Plan) -> str:
    return json.dumps(to_json_value(plan), separators=(",", ":"))


def plan_from_json(text: str | bytes) -> Plan:
    """Raises: DecodeError."""
    return from_json_value(Plan, _parse(text))


def inventory_to_json(inventory: Inventory) -> str:
    return json.dumps(to_json_value(inventory), separators=(",", ":"))


def inventory_from_json(text: str | bytes) -> Inventory:
    """Raises: DecodeError."""
    return from_json_value(Inventory, _parse(text))


def demands_to_json(demands: tuple[Demand, ...]) -> str:
    return json.dumps(to_json_value(demands), separators=(",", ":"))


def demands_from_json(text: str | bytes) -> tuple[Demand, ...]:
    """Raises: DecodeError."""
    return from_json_value(tuple[Demand, ...], _parse(text))


def _parse(text: str | bytes) -> JsonValue:
    def once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise DecodeError("", f"a key is given twice among {keys}")
        return dict(pairs)

    def no_number(name: str) -> JsonValue:
        raise DecodeError("", f"{name} is no number")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except DecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DecodeError("", f"not JSON: {error}") from None


def _decode(kind: Any, value: JsonValue, path: str) -> Any:
    origin = get_origin(kind)
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, path)
    if origin is frozenset:
        return frozenset(_decode_tuple((*get_args(kind), ...), value, path))
    if origin is UnionType:
        return None if value is None else _decode(_not_none(kind), value, path)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    if issubclass(kind, Enum):
        return _decode_enum(kind, value, path)
    return _decode_scalar(kind, value, path)


def _decode_dataclass(kind: Any, value: JsonValue, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise DecodeError(path, f"expected an object, got {_shown(value)}")
    hints = _hints(kind)
    unknown = [str(key) for key in value if key not in hints]
    if unknown:
        raise DecodeError(_at(path, unknown[0]), f"unknown key; known are {', '.join(hints)}")
    missing = [f.name for f in fields(kind) if f.name not in value and f.default is MISSING]
    if missing:
        raise DecodeError(_at(path, missing[0]), "missing")
    return kind(**{name: _decode(hints[name], item, _at(path, name)) for name, item in value.items()})


def _decode_tuple(kinds: tuple[Any, ...], value: JsonValue, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise DecodeError(path, f"expected a list, got {_shown(value)}")
    if kinds[-1] is not ... and len(value) != len(kinds):
        raise DecodeError(path, f"expected {len(kinds)} items, got {len(value)}")
    each = [kinds[0]] * len(value) if kinds[-1] is ... else list(kinds)
    return tuple(_decode(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(each, value, strict=True)))


def _decode_enum(kind: type[Enum], value: JsonValue, path: str) -> Enum:
    found = next((member for member in kind if member.value == value), None)
    if found is None:
        valid = ", ".join(str(member.value) for member in kind)
        raise DecodeError(path, f"{_shown(value)} is none of {valid}")
    return found


def _decode_scalar(kind: type, value: JsonValue, path: str) -> Any:
    whole_for_float = kind is float and type(value) is int
    if type(value) is not kind and not whole_for_float:
        raise DecodeError(path, f"expected {kind.__name__}, got {_shown(value)}")
    convert: Callable[[Any], Any] = kind
    return convert(value)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Field types by name; properties and methods are no fields."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _not_none(kind: Any) -> Any:
    return next(option for option in get_args(kind) if option is not NoneType)


def _at(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
