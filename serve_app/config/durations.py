"""Durations as people write them: `90s`, `30m`, `1.5h`, `1d`, or a plain number of seconds."""

from __future__ import annotations

import re

_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")


def duration_s(text: str) -> float:
    """Raises: ValueError for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a duration")
    return float(match[1]) * _UNIT_S[match[2]]
