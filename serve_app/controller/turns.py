"""Loops that go on for as long as the controller lives: a turn that fails is told, and the next one comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from serve_app.logs import logger

Spawn = Callable[[Coroutine[Any, Any, None]], None]
"""Begins work that goes on beside whoever asks for it."""


async def kept(step: Callable[[], Awaitable[None]], *, what: str) -> bool:
    """One turn of a loop; False when it failed, whatever the reason was. The loop must not end for it."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001 - a loop that ended silently would be worse than any of them
        _log.error("a turn failed; the loop goes on", what=what, error=repr(error))
        return False
    return True


_log = logger("headroom.controller")
