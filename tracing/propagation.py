"""W3C trace context on the wire, without the SDK: cheap enough for every request, traced or not.

Source: W3C Trace Context, Level 1. Pure but for the random ids.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
_MAX_TRACESTATE = 512
_PATTERN = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16


@dataclass(frozen=True, slots=True)
class Parent:
    """A valid incoming `traceparent`: ids in lower-case hex, as on the wire."""

    trace_id: str
    span_id: str
    sampled: bool
    tracestate: str = ""

    def header(self) -> str:
        return format_traceparent(self.trace_id, self.span_id, sampled=self.sampled)


def parse_traceparent(value: bytes, tracestate: bytes = b"") -> Parent | None:
    """None where the standard says that the header must be ignored."""
    match = _PATTERN.fullmatch(value.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest is not None) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    state = tracestate.decode("ascii", "ignore").strip() if len(tracestate) <= _MAX_TRACESTATE else ""
    return Parent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & 1), state)


def incoming(headers: Iterable[tuple[bytes, bytes]]) -> Parent | None:
    """The caller's span from ASGI headers (names in lower case), or None. Two `traceparent` headers count as none."""
    found = state = b""
    for name, value in headers:
        if name == b"traceparent":
            if found:
                return None
            found = value
        elif name == b"tracestate":
            state = state + b"," + value if state else value
    return parse_traceparent(found, state) if found else None


def format_traceparent(trace_id: str, span_id: str, *, sampled: bool) -> str:
    return f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"


def new_trace_id() -> str:
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"
