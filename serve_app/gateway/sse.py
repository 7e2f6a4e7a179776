"""Server-sent events as bytes: where one ends, which one reports usage, whether a stream is whole. Pure.

Nothing here parses an event's JSON on the way through. The byte patterns are exact: inside a JSON string
every quote is escaped, so `"choices":[]` or `"finish_reason":"` can only be structure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

DONE: Final = b"data: [DONE]\n\n"
GOOD_FINISHES: Final = frozenset({b"stop", b"length", b"tool_calls"})

_END: Final = b"\n\n"
_USAGE_MARK: Final = b'"choices":[]'
_ERROR: Final = re.compile(rb'^data: \{"error"', re.MULTILINE)
_FINISHES: Final = re.compile(rb'"finish_reason":\s*"(\w+)"')


class EventSplitter:
    """Cuts a stream of bytes into whole events; holds back the unfinished one. Owns only its tail."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """The whole events now known, as one piece; empty when none has ended yet."""
        if not self._tail and data.endswith(_END):
            return data
        data = self._tail + data
        end = data.rfind(_END) + len(_END)
        if end < len(_END):
            self._tail = data
            return b""
        self._tail = data[end:]
        return data[:end]

    @property
    def held_bytes(self) -> int:
        return len(self._tail)


def take_usage(events: bytes) -> tuple[bytes, Mapping[str, Any] | None]:
    """Split off the event that only reports usage: `(other events, usage)`, usage None when there is none."""
    if _USAGE_MARK not in events:
        return events, None
    rest, usage = [], None
    for event in events.split(_END)[:-1]:
        found = _usage_of(event) if _USAGE_MARK in event else None
        usage = found or usage
        if found is None:
            rest.append(event + _END)
    return b"".join(rest), usage


def _usage_of(event: bytes) -> Mapping[str, Any] | None:
    try:
        document = orjson.loads(event.removeprefix(b"data: "))
    except orjson.JSONDecodeError:
        return None
    usage = document.get("usage") if isinstance(document, dict) and document.get("choices") == [] else None
    return usage if isinstance(usage, dict) else None


def is_whole(stream: bytes, *, num_choices: int) -> bool:
    """True when every choice ended well, no event is an error, and the end mark is there."""
    if not stream.endswith(DONE) or _ERROR.search(stream) is not None:
        return False
    finishes = _FINISHES.findall(stream)
    return len(finishes) == num_choices and GOOD_FINISHES.issuperset(finishes)


def finish_reasons(stream: bytes) -> tuple[str, ...]:
    return tuple(reason.decode() for reason in _FINISHES.findall(stream))
