"""Safetensors files judged by their headers: present, whole, and what they claim to be.

Reads headers only, never a tensor, and imports neither torch nor safetensors.
Source: safetensors format: 8 bytes little-endian header length, a JSON header, the tensors without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from serve_app.errors import CheckpointRefused

INDEX_NAME: Final = "model.safetensors.index.json"
LENGTH_BYTES: Final = 8
LARGEST_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors library."""
BITS: Final[Mapping[str, int]] = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits of one element, by safetensors' name of the type."""


def check_weight_files(directory: Path, names: Collection[str]) -> None:
    """Raises: CheckpointRefused if there are none, if shards and index disagree or if a header lies."""
    shards = _shards(names)
    if not shards:
        raise _refused(directory, "it has no .safetensors file")
    for name in shards:
        _read_header(directory, name)
    if INDEX_NAME in names:
        _check_index(directory, shards)
    elif len([name for name in shards if "/" not in name]) > 1:
        raise _refused(directory, f"it has several .safetensors files and no {INDEX_NAME}")


def weights_bytes(directory: Path, names: Collection[str]) -> int:
    """Bytes of all tensors, as their headers say."""
    return sum((directory / name).stat().st_size - _header_bytes(directory / name) for name in _shards(names))


def _shards(names: Collection[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(".safetensors"))


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")


def _read_header(directory: Path, name: str) -> Mapping[str, Any]:
    """The header of one file, once its tensors are known to fill the file exactly."""
    path = directory / name
    size, header_bytes = path.stat().st_size, _header_bytes(path)
    if size < LENGTH_BYTES or header_bytes > min(size, LARGEST_HEADER_BYTES):
        raise _refused(directory, f"{name} is cut or no safetensors file")
    with path.open("rb") as file:
        raw = file.read(header_bytes)[LENGTH_BYTES:]
    try:
        header = json.loads(raw)
        spans = sorted(_span(tensor) for key, tensor in header.items() if key != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _refused(directory, f"{name} has a header that cannot be read ({error!r})") from error
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise _refused(directory, f"{name} has tensors that overlap or leave gaps")
        end = stop
    if not spans or header_bytes + end != size:
        raise _refused(directory, f"{name} has {size} bytes, its header says {header_bytes + end}")
    return dict(header)


def _span(tensor: Mapping[str, Any]) -> tuple[int, int]:
    """Raises: ValueError if begin and end do not fit type and shape."""
    begin, end = tensor["data_offsets"]
    shape = tensor["shape"]
    if any(not isinstance(extent, int) or extent < 0 for extent in (*shape, begin, end)):
        raise ValueError("a negative or fractional extent")
    if (end - begin) * 8 != math.prod(shape) * BITS[tensor["dtype"]]:
        raise ValueError("a tensor whose bytes do not fit its shape")
    return begin, end


def _check_index(directory: Path, shards: list[str]) -> None:
    try:
        named = set(json.loads((directory / INDEX_NAME).read_bytes())["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _refused(directory, f"{INDEX_NAME} cannot be read ({error!r})") from error
    present = {name for name in shards if "/" not in name}
    if missing := sorted(str(name) for name in named - present):
        raise _refused(directory, f"the shard {missing[0]} that {INDEX_NAME} names is missing")
    if extra := sorted(present - named):
        raise _refused(directory, f"{extra[0]} is not in {INDEX_NAME}")


def _refused(directory: Path, why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"Checkpoint {directory} is refused: {why}.",
        expected="Expected whole safetensors files, with their index if there are several.",
        advice="Copy the checkpoint again from where it was made.",
    )
