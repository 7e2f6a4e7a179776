"""How the parts of the controller begin work that goes on beside whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

Spawn = Callable[[Coroutine[Any, Any, None]], None]
"""Begins work that goes on beside whoever asks for it."""
