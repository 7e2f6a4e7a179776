"""Decisions remembered by the exact bytes of a request, so that a repeated request is neither parsed nor hashed again.

Right because a decision depends on nothing else but the catalog and whether there are keys: whoever changes that
clears the memo.
"""

from __future__ import annotations

from typing import Final

from serve_app.engines.protocol import Endpoint
from serve_app.gateway.decide import Decision

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_BODY_BYTES: Final = 32 * 1024
_OVERHEAD_BYTES: Final = 1024

MemoKey = tuple[Endpoint, bytes, bytes | None, bytes | None, str, frozenset[str] | None]
"""Endpoint, body, headers that name a mode and a weights version; the caller's tenant, and the models he may use."""


class Memo:
    """Bounded by bytes; the oldest leaves first."""

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._decisions: dict[MemoKey, Decision] = {}
        self._num_bytes = 0

    def get(self, key: MemoKey) -> Decision | None:
        return self._decisions.get(key)

    def put(self, key: MemoKey, decision: Decision) -> None:
        """Remember the decision. Its body is what takes the room, and very large ones are not worth it."""
        if len(key[1]) > MAX_BODY_BYTES or key in self._decisions:
            return
        self._decisions[key] = decision
        self._num_bytes += _size(key, decision)
        while self._num_bytes > self._max_bytes:
            oldest = next(iter(self._decisions))
            self._num_bytes -= _size(oldest, self._decisions.pop(oldest))

    def clear(self) -> None:
        self._decisions.clear()
        self._num_bytes = 0


def _size(key: MemoKey, decision: Decision) -> int:
    question = decision.question
    return len(key[1]) + len(decision.body) + (4 * len(question.text) if question else 0) + _OVERHEAD_BYTES
