"""Weights of a scripted engine: no numbers, only a version that every answer says, and faults when they change.

Checkpoints are named by their last path component: `/scripted/v2` is version `v2`. Nothing is read from any disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import orjson

from serve_app.engines.protocol import Endpoint, Reloaded, ReloadFailed, ReloadNotBegun, Unary
from serve_app.engines.scripted_answers import unary_answer
from serve_app.errors import CheckpointRefused
from serve_app.fleet.measurements import HeldBytes

SCRIPTED: Final = "[scripted, no model ran]"
"""Begins every answer."""
GARBAGE: Final = "!!!!"
NUM_BYTES: Final = 1_000
"""What every scripted checkpoint is said to hold."""


class ReloadFault(StrEnum):
    """What one reload does instead of loading."""

    NONE = "none"
    STALE = "stale"
    """Says that it loaded, and goes on with the weights it had."""
    GARBAGE = "garbage"
    """Loads, and answers nonsense."""
    SILENT = "silent"
    """Loads, and answers no prompt any more."""
    FAILS = "fails"
    HANGS = "hangs"
    """Until `go_on` is set; then it loads."""
    BUSY = "busy"
    """What runs does not end in time."""


class ScriptedWeights:
    """`Reloadable`. `faults` are used up, one per reload; `refuses` is why the next checkpoints do not fit, if so."""

    def __init__(self, *, model: str, version: str, num_words: int) -> None:
        self.says = version
        self.faults: deque[ReloadFault] = deque()
        self.go_on = asyncio.Event()
        self.refuses = ""
        self.is_silent = False
        self._model = model
        self._num_words = num_words

    def words(self, limit: int) -> list[str]:
        """Of one answer; each says the version, so that an answer of two versions shows."""
        mark = f"@{self.says}" if self.says else ""
        return [SCRIPTED + mark, *(f" word-{index}{mark}" for index in range(limit))]

    def fits(self, running: Path, new: Path, *, version: str, verified: bool) -> int:
        """In the place of `check_fit`. Raises: CheckpointRefused."""
        if self.refuses:
            raise CheckpointRefused(self.refuses)
        return NUM_BYTES

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary:
        """A fingerprint's prompt: one token with a log-probability that is this version's own."""
        if self.is_silent:
            return Unary(500, b'{"error": "Scripted silence."}')
        said = unary_answer(
            endpoint, self._model, orjson.loads(body), self.words(self._num_words), logprob=_logprob(self.says)
        )
        return Unary(200, orjson.dumps(said))

    async def held_bytes(self) -> HeldBytes | None:
        return HeldBytes(weights_bytes=NUM_BYTES, kv_cache_bytes=0)

    async def reload(self, checkpoint: Path, *, drain_s: float) -> Reloaded:
        fault = self.faults.popleft() if self.faults else ReloadFault.NONE
        if fault is ReloadFault.BUSY:
            raise ReloadNotBegun("Scripted: requests still run.")
        if fault is ReloadFault.FAILS:
            self.says = GARBAGE
            raise ReloadFailed("Scripted failure of a reload.")
        if fault is ReloadFault.HANGS:
            await self.go_on.wait()
        if fault is not ReloadFault.STALE:
            self.says = GARBAGE if fault is ReloadFault.GARBAGE else checkpoint.name
        self.is_silent = fault is ReloadFault.SILENT
        return Reloaded(pause_s=0.0, reload_s=0.0, resume_s=0.0)


def _logprob(version: str) -> float:
    """Between -9 and -1, by the digest of the name."""
    return -1.0 - 8.0 * hashlib.sha256(version.encode()).digest()[0] / 255
