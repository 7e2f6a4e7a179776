"""Kinds of value cluster.yaml knows beside numbers and choices: names, sizes, sources.

Each says in JSON Schema what it takes, in words under `x-expected` where the schema alone would say it badly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from serve_app.config.sizes import SIZE_PATTERN, size_bytes, size_text

DEFAULT_SOURCES = ("default:mini", "default:small", "default:base")
"""Models the product's own trainer makes on first use; their table is `serve_app.training.defaults`."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names become path segments, labels, and parts of `<model>@<node>` and `<model>#<ordinal>`."""

EXPECTED = "x-expected"


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Marks an int field as a size: human units or bytes on the way in, bytes inside, both ends included."""

    minimum: int
    maximum: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        ends = f"{size_text(self.minimum)} to {size_text(self.maximum)}"
        words = f"a size from {ends}, such as 512MiB or 2GiB, or a whole number of bytes"
        return {"type": ["integer", "string"], "minimum": self.minimum, "pattern": SIZE_PATTERN, EXPECTED: words}

    def _read(self, value: object) -> int:
        num_bytes = size_bytes(value)
        if not self.minimum <= num_bytes <= self.maximum:
            raise ValueError("out of range")
        return num_bytes


def _source(text: str) -> str:
    if not text.strip() or "\0" in text or (text.startswith("default:") and text not in DEFAULT_SOURCES):
        raise ValueError("no source")
    return text


Name = Annotated[
    str,
    Field(
        pattern=NAME_PATTERN,
        json_schema_extra={
            EXPECTED: "a name of 1 to 64 letters, digits, '.', '_' or '-' that begins with a letter or digit"
        },
    ),
]
Source = Annotated[
    str,
    AfterValidator(_source),
    Field(json_schema_extra={EXPECTED: f"one of: {', '.join(DEFAULT_SOURCES)}, or a checkpoint directory"}),
]
DeviceType = Annotated[
    str,
    Field(
        pattern=r"^[^|]*[^|\s][^|]*$",
        max_length=128,
        json_schema_extra={EXPECTED: "words of a product's name, such as H100"},
    ),
]
FilePath = Annotated[str, Field(min_length=1, json_schema_extra={EXPECTED: "a path"})]
RedisUrl = Annotated[
    str,
    Field(
        pattern=r"^(redis|rediss|unix)://\S+$",
        json_schema_extra={EXPECTED: "an address such as redis://127.0.0.1:6379/0, or null"},
    ),
]
