"""What an engine run is given and what it reports: values only."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.api.errors import ApiError
from serve_app.gateway.answers import Tokens
from serve_app.gateway.loads import Loads, RetryBudget
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.upstream import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds an engine may be silent, and a client may leave a long answer unread."""

    first_token_s: float
    between_tokens_s: float
    unread_s: float = 60.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What all runs of a gateway share."""

    pool: Pool
    loads: Loads
    retries: RetryBudget
    deadlines: Deadlines
