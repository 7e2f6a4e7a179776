"""What an engine run is given and what it reports: values only."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from serve_app.api.errors import ApiError
from serve_app.config.settings import ModeSettings
from serve_app.gateway.answers import Tokens
from serve_app.gateway.bulkheads import Bulkheads
from serve_app.gateway.loads import Loads, RetryBudget
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.upstream import Pool

MAX_QUEUED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds an engine may be silent, and a client may leave a long answer unread."""

    first_token_s: float
    between_tokens_s: float
    unread_s: float = 60.0
    queue_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who answers; `checkpoint_step` is None when unknown."""

    mode: str
    model: str
    weights_version: str
    checkpoint_step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a run ended. `whole` answers may be stored. Times are seconds since the run was made; None: never."""

    failure: ApiError | None
    cancelled: bool
    whole: bool
    tokens: Tokens | None
    response_id: str | None
    finish_reasons: tuple[str, ...]
    backend: Backend | None
    first_byte_s: float | None
    duration_s: float
    num_retries: int
    queued_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What all runs of a gateway share."""

    pool: Pool
    loads: Loads
    retries: RetryBudget
    deadlines: Deadlines
    bulkheads: Bulkheads = field(default_factory=lambda: Bulkheads(max_queued=MAX_QUEUED))
    jitter: Callable[[], float] = random.random
    """From 0 to 1."""

    def deadlines_of(self, mode: ModeSettings | None) -> Deadlines:
        """The mode's own where it has them."""
        if mode is None or (mode.first_token_timeout_s is None and mode.between_tokens_timeout_s is None):
            return self.deadlines
        return replace(
            self.deadlines,
            first_token_s=mode.first_token_timeout_s or self.deadlines.first_token_s,
            between_tokens_s=mode.between_tokens_timeout_s or self.deadlines.between_tokens_s,
        )
