"""The header of a safetensors file: parsed, and held to account. Reading the file is the caller's business.

A file is 8 bytes of header length (little-endian), that many bytes of JSON, then the tensors without a gap.
Source: https://github.com/huggingface/safetensors#format; the limits are those of its own reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from placement.errors import BadHeader

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 32
MAX_NUMBER = 1 << 62
DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "I64": 64,
    "U64": 64,
    "F64": 64,
}
CAST_DTYPES = frozenset({"F16", "BF16", "F32", "F64"})
"""Floats that an engine loads in its own dtype whatever the file has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """`begin` and `end` count from the first byte after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsHeader:
    """`header_bytes` includes the 8 of the length; with `data_bytes` it makes the whole file."""

    tensors: tuple[TensorEntry, ...]
    header_bytes: int
    data_bytes: int


def header_bytes_needed(first_bytes: bytes) -> int:
    """How many bytes of the file to read for `parse_safetensors_header`, told by its first 8. Raises: BadHeader."""
    if len(first_bytes) < LENGTH_BYTES:
        raise BadHeader(f"a safetensors file starts with 8 bytes of length, this one has {len(first_bytes)} bytes")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise BadHeader(f"the header says it is {length} bytes long; 2 to {MAX_HEADER_BYTES} are possible")
    return LENGTH_BYTES + length


def parse_safetensors_header(prefix: bytes, *, file_bytes: int) -> SafetensorsHeader:
    """The header at the start of `prefix`, of a file that is `file_bytes` long.

    Raises: BadHeader for a cut or malformed header, and for one that lies: a tensor whose bytes do not match its
    shape, overlap another's, leave a gap, or reach beyond the file; bytes that belong to no tensor.
    """
    end = header_bytes_needed(prefix)
    if len(prefix) < end or file_bytes < end:
        raise BadHeader(f"the header needs {end} bytes, there are {min(len(prefix), file_bytes)}")
    entries = _json_object(prefix[LENGTH_BYTES:end])
    entries.pop("__metadata__", None)
    tensors = sorted((_entry(name, value) for name, value in entries.items()), key=lambda t: (t.begin, t.end))
    _reject_lies(tensors, data_bytes=file_bytes - end)
    return SafetensorsHeader(tensors=tuple(tensors), header_bytes=end, data_bytes=file_bytes - end)


def weights_bytes_from_headers(headers: Iterable[SafetensorsHeader], *, float_bytes: int | None = None) -> int:
    """Bytes of all tensors of a checkpoint, one header per shard.

    `float_bytes` is the width the engine runs floats in; None counts them as stored, exact to the byte of the files.
    Raises: BadHeader when two shards hold a tensor of one name.
    """
    seen: set[str] = set()
    total = 0
    for tensor in (tensor for header in headers for tensor in header.tensors):
        if tensor.name in seen:
            raise BadHeader(f"tensor '{tensor.name}' is in more than one shard")
        seen.add(tensor.name)
        cast = float_bytes is not None and tensor.dtype in CAST_DTYPES
        total += prod(tensor.shape) * float_bytes if cast and float_bytes is not None else tensor.num_bytes
    return total


def _json_object(text: bytes) -> dict[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = dict(pairs)
        if len(keys) < len(pairs):
            raise BadHeader("the header names a tensor twice")
        return keys

    try:
        value = json.loads(text, object_pairs_hook=once)
    except BadHeader:
        raise
    except (ValueError, RecursionError) as error:
        raise BadHeader(f"the header is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadHeader("the header is not a JSON object")
    return value


def _entry(name: str, value: object) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise BadHeader(f"tensor '{name}' must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], _numbers(name, value["shape"]), _numbers(name, value["data_offsets"])
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise BadHeader(f"tensor '{name}' has the unknown dtype {dtype!r}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadHeader(f"tensor '{name}' has the offsets {list(offsets)}; two rising ones are expected")
    expected_bits = prod(shape) * DTYPE_BITS[dtype]
    if (offsets[1] - offsets[0]) * 8 != expected_bits:
        message = (
            f"tensor '{name}' takes {offsets[1] - offsets[0]} bytes, its shape and dtype make {expected_bits // 8}"
        )
        raise BadHeader(message)
    return TensorEntry(name=name, dtype=dtype, shape=shape, begin=offsets[0], end=offsets[1])


def _numbers(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
        raise BadHeader(f"tensor '{name}' has a shape or offsets that are not whole numbers of at least 0")
    if len(value) > MAX_DIMENSIONS or any(item > MAX_NUMBER for item in value):
        raise BadHeader(f"tensor '{name}' has more than {MAX_DIMENSIONS} dimensions or a number above {MAX_NUMBER}")
    return tuple(value)


def _reject_lies(tensors: list[TensorEntry], *, data_bytes: int) -> None:
    """Tensors in the order of their bytes must follow one another without gap or overlap, to the end of the file."""
    expected = 0
    for tensor in tensors:
        if tensor.begin != expected:
            fault = "overlaps another" if tensor.begin < expected else "leaves a gap before it"
            raise BadHeader(f"tensor '{tensor.name}' starts at {tensor.begin} where {expected} is expected: it {fault}")
        expected = tensor.end
    if expected != data_bytes:
        raise BadHeader(f"the tensors end at {expected}, the file holds {data_bytes} bytes after the header")
