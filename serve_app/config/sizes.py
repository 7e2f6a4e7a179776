"""Sizes as people write them: `512MiB`, `2GiB`, `1.5 GB`, or a plain number of bytes."""

from __future__ import annotations

import re
from decimal import Decimal

_UNIT_BYTES = {
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*([KMGTkmgt][iI]?)?[bB]\s*$"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)\s*", re.IGNORECASE)


def size_bytes(value: object) -> int:
    """Bytes of `value`: an int is bytes already; text needs a unit, and is rounded down to whole bytes.

    Raises: ValueError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    unit_bytes = _UNIT_BYTES.get(match[2].lower()) if match else None
    if match is None or unit_bytes is None:
        raise ValueError("not a size")
    return int(Decimal(match[1]) * unit_bytes)


def size_text(num_bytes: int) -> str:
    """For eyes: `512MiB`, `1.5GiB`, `17B`; the shortest exact or two-decimal form."""
    for unit, unit_bytes in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(num_bytes) >= unit_bytes:
            return f"{num_bytes / unit_bytes:.2f}".rstrip("0").rstrip(".") + unit
    return f"{num_bytes}B"
