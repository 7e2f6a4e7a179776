"""What the controller's loops are begun and kept going with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from serve_app.turns import kept

__all__ = ["Spawn", "kept"]

Spawn = Callable[[Coroutine[Any, Any, None]], None]
"""Begins work that goes on beside whoever asks for it."""
