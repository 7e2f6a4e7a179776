"""Waiting for a condition with a deadline; no test sleeps for a time it guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_POLL_S = 0.1


def eventually(condition: Callable[[], T], *, deadline_s: float, what: str) -> T:
    """The first true value of `condition`, asked again and again. Raises AssertionError after the deadline."""
    until_s = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what}; the last value was {value!r}")
        time.sleep(_POLL_S)
