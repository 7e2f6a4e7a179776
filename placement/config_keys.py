"""Entries of a config.json, read with their kind checked: whole numbers, flags, lists. Knows no family of models.

A family may spell an entry its own way (`n_layer` for `num_hidden_layers`) and have a value for it where its published
configs stay silent; both come as tables. Every fault names the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.errors import UnsupportedModel

MAX_NUMBER = 1 << 40
"""No size of a model is near this; what is larger is a mistake, and products of such numbers help nobody."""
MAX_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class ConfigKeys:
    """`names` maps our word for an entry to the family's, `defaults` gives values (by our word) for silent configs."""

    config: Mapping[str, object]
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)

    def raw(self, key: str) -> object:
        """The value under the family's name, else under our own; None when both are absent or null."""
        theirs = self.names.get(key, key)
        value = self.config.get(theirs)
        value = self.config.get(key) if value is None else value
        return self.defaults.get(key) if value is None else value

    def has(self, key: str) -> bool:
        return self.raw(key) is not None

    def number(self, key: str, default: int | None = None, *, least: int = 1, most: int = MAX_NUMBER) -> int:
        """Raises: UnsupportedModel when there is none and no default, or when it is no whole number in the bounds."""
        value = self.raw(key)
        if value is None:
            value = default
        if type(value) is float and value.is_integer():
            value = int(value)  # some writers of JSON turn 8 into 8.0
        if type(value) is not int or not least <= value <= most:
            shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
            message = f"config.json has {self.names.get(key, key)} {shown}; it must be a whole number of"
            raise UnsupportedModel(key, f"{message} at least {least} and at most {most}")
        return value

    def optional(self, key: str) -> int | None:
        return self.number(key) if self.has(key) else None

    def layers(self) -> int:
        return self.number("num_hidden_layers", most=MAX_LAYERS)

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise UnsupportedModel(
                key, f"config.json has {self.names.get(key, key)} {value!r}; it must be true or false"
            )
        return value

    def text(self, key: str, default: str = "") -> str:
        value = self.raw(key)
        return value if isinstance(value, str) else default

    def words(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise UnsupportedModel(key, f"config.json has a {key} that is no list of strings")
        return tuple(value)

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """A list of whole numbers of at least 0; None when absent."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(type(item) is int and item >= 0 for item in value):
            raise UnsupportedModel(key, f"config.json has a {key} that is no list of whole numbers")
        return tuple(value)

    def inner(self, key: str) -> Mapping[str, object] | None:
        value = self.raw(key)
        if value is not None and not isinstance(value, Mapping):
            raise UnsupportedModel(key, f"config.json has a {key} that is no object")
        return value
