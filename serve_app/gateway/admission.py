"""Who asks, and whether he may now: keys and rates before anything else of a request is looked at.

The rules are in `serve_app.access`; this holds the newest snapshot for one gateway. The internal secret stands for
the cluster itself: a request that comes with it, and names no key, may do all.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from http import HTTPStatus
from typing import Final

from serve_app.access.authorize import LOCAL, NOT_KNOWN, Caller, authorize, caller_of
from serve_app.access.keys import NO_KEYS, Role
from serve_app.access.rates import RateLimiter
from serve_app.api.errors import ApiError, Outcome
from serve_app.gateway.answers import Tokens
from serve_app.gateway.asgi import Asked, Headers
from serve_app.gateway.decide import VERSION_HEADER
from serve_app.gateway.routing_table import RoutingTable

_SALT: Final = b"headroom-salt"
_MARK: Final = b"headroom-trace"


class Admission:
    """One owner: a gateway's event loop. `clock` is monotonic, `wall_clock` Unix time, both in seconds."""

    def __init__(self, *, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._keys = NO_KEYS
        self._secret = b""
        self._rates = RateLimiter()

    def update(self, table: RoutingTable) -> None:
        self._keys = table.access
        self._secret = table.internal_secret.encode()
        self._rates.update(len(table.peers))

    def is_internal(self, asked: Asked) -> bool:
        return asked.secret is not None and bool(self._secret) and hmac.compare_digest(asked.secret, self._secret)

    def admit(
        self, route: str | None, method: str, headers: Headers, asked: Asked, *, internal: bool
    ) -> Caller | ApiError:
        """`route` is the template that was matched. A request that another gateway passed on was counted there."""
        if internal:
            return self._passed_on(asked.caller)
        caller = authorize(route, method, headers, self._keys, now_s=self._wall_clock())
        if isinstance(caller, ApiError):
            return caller
        return self._rates.admit(caller, now_s=self._clock()) or caller

    def spent(self, caller: Caller, tokens: Tokens | None) -> None:
        """Charge an engine run to whoever began it; who joined it or found it in the cache pays nothing."""
        if tokens is not None and caller.grant.tokens_per_min is not None:
            self._rates.spent(caller, tokens.input + tokens.output, now_s=self._clock())

    def _passed_on(self, key_id: bytes | None) -> Caller | ApiError:
        if not key_id or not self._keys.is_closed:
            return LOCAL
        record = self._keys.named(key_id.decode("latin-1"), now_s=self._wall_clock())
        return NOT_KNOWN if record is None else caller_of(record)


def pin_refusal(caller: Caller) -> ApiError | None:
    """Only operators choose the weights: a caller could reach a canary that nobody has judged yet."""
    if caller.grant.has(Role.ADMIN):
        return None
    return ApiError(
        status=HTTPStatus.FORBIDDEN,
        message=f"The header `{VERSION_HEADER}` needs a key of the role 'admin'. Leave it out.",
        type="permission_error",
        param=VERSION_HEADER,
        code="role_missing",
        outcome=Outcome.REJECTED,
    )


def salt_of(caller: Caller) -> str | None:
    """By which an engine keeps prefixes of tenants apart; None while there are no keys, so that all share."""
    return _hashed(caller.tenant, _SALT) if caller.key_id else None


def tenant_mark(caller: Caller) -> str | None:
    """How traces name a tenant; None while there are no keys. Tells nothing of his salt."""
    return _hashed(caller.tenant, _MARK) if caller.key_id else None


@lru_cache(maxsize=8192)
def _hashed(tenant: str, purpose: bytes) -> str:
    return blake2b(tenant.encode(), digest_size=16, person=purpose).hexdigest()
