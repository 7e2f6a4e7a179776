"""Bytes and fractions as people read them in messages."""

from __future__ import annotations

GIB = 1 << 30
MIB = 1 << 20


def gib(num_bytes: int, *, decimals: int = 1) -> str:
    """`19206242304` as `17.9 GiB`; below a tenth of a GiB as MiB."""
    if 0 < abs(num_bytes) < GIB // 10:
        return f"{num_bytes / MIB:.{decimals}f} MiB"
    return f"{num_bytes / GIB:.{decimals}f} GiB"


def told_apart(more: int, less: int) -> tuple[str, str]:
    """Both as GiB, with as many decimals as it takes to see that they differ, or in bytes when it takes too many."""
    for decimals in (1, 2, 3):
        words = gib(more, decimals=decimals), gib(less, decimals=decimals)
        if more == less or words[0] != words[1]:
            return words
    return f"{more} bytes", f"{less} bytes"


def percent(fraction: float) -> str:
    return f"{fraction * 100:g} %"
