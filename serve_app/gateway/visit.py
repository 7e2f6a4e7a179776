"""One request to the hot route while it is here: who asks, for what, and what has become of it so far."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.access.authorize import LOCAL, Caller
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.admission import salt_of
from serve_app.gateway.answer_headers import Headers
from serve_app.gateway.asgi import Asked
from serve_app.gateway.cache_control import NOTHING_SAID, read_cache_control
from serve_app.gateway.decide import Decision, Terms
from serve_app.gateway.delivery import Client
from tracing.spans import RequestTrace


@dataclass(slots=True, kw_only=True)
class Visit:
    """One request. `decision` is None until it is known where it goes."""

    endpoint: Endpoint
    client: Client
    asked: Asked
    trace: RequestTrace
    headers: Headers
    started_s: float
    caller: Caller = LOCAL
    internal: bool = False
    relayed: bool = False
    decision: Decision | None = None
    away_s: float | None = 0.0
    """Spent in engines and in waiting for them, in seconds; None: in a run that another request began."""

    def terms(self) -> Terms:
        """What the request's headers and its sender add to its body."""
        asked, caller = self.asked, self.caller
        wanted = NOTHING_SAID if asked.cache_control is None else read_cache_control(asked.cache_control)
        return Terms(
            tenant=caller.tenant,
            models=caller.grant.models,
            salt=salt_of(caller),
            mode=_text(asked.mode),
            pinned=_text(asked.version),
            may_downshift=asked.may_downshift,
            no_store=wanted.no_store,
            no_cache=wanted.no_cache,
            may_be_similar=not wanted.no_semantic,
            max_age_s=wanted.max_age_s,
        )


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1").strip() if value is not None else None
