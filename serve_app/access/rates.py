"""Requests and tokens a minute for each key: token buckets that fill steadily and hold one minute's worth. Pure.

Tokens are known only after an answer, so they are charged then; a key in debt waits until it is paid. Each gateway
replica counts for itself and gets its part of the rate, so that all together keep it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from serve_app.access.authorize import Caller
from serve_app.api.errors import ApiError, Outcome

MAX_KEYS: Final = 10_000
"""Buckets kept; the one unused for longest leaves first, and would be full again by then anyway."""
_MINUTE_S: Final = 60.0


@dataclass(slots=True)
class _Bucket:
    """`level` is what is left at `at_s`; below zero is debt."""

    level: float
    at_s: float

    def refill(self, per_min: float, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self.at_s)
        self.level = min(per_min, self.level + elapsed_s * per_min / _MINUTE_S)
        self.at_s = now_s

    def wait_s(self, needed: float, per_min: float) -> float:
        return max(0.0, (needed - self.level) * _MINUTE_S / per_min)


class RateLimiter:
    """One owner: a gateway's event loop. `now_s` is monotonic."""

    def __init__(self, *, num_gateways: int = 1, max_keys: int = MAX_KEYS) -> None:
        self._num_gateways = num_gateways
        self._max_keys = max_keys
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def update(self, num_gateways: int) -> None:
        self._num_gateways = max(1, num_gateways)

    def admit(self, caller: Caller, *, now_s: float) -> ApiError | None:
        """Count one request, or refuse it with the time after which it would be admitted; a refusal costs nothing."""
        requests, tokens = caller.grant.requests_per_min, caller.grant.tokens_per_min
        waits_s: list[float] = []
        if tokens is not None:  # anything left is enough: what it will cost is not known yet
            bucket, per_min = self._bucket(caller.key_id, "tokens", tokens, now_s)
            waits_s.append(0.0 if bucket.level > 0 else bucket.wait_s(min(1.0, per_min), per_min))
        if requests is not None:
            bucket, per_min = self._bucket(caller.key_id, "requests", requests, now_s)
            waits_s.append(bucket.wait_s(min(1.0, per_min), per_min))
            if not any(waits_s):
                bucket.level -= 1.0
        return _too_many(max(waits_s)) if any(waits_s) else None

    def spent(self, caller: Caller, num_tokens: int, *, now_s: float) -> None:
        """Charge the tokens of an answer, cached ones not among them."""
        if caller.grant.tokens_per_min is not None:
            bucket, _ = self._bucket(caller.key_id, "tokens", caller.grant.tokens_per_min, now_s)
            bucket.level -= num_tokens

    def _bucket(self, key_id: str, what: str, rate_per_min: int, now_s: float) -> tuple[_Bucket, float]:
        per_min = rate_per_min / self._num_gateways
        bucket = self._buckets.setdefault((key_id, what), _Bucket(per_min, now_s))
        bucket.refill(per_min, now_s)
        self._buckets.move_to_end((key_id, what))
        while len(self._buckets) > 2 * self._max_keys:
            self._buckets.popitem(last=False)
        return bucket, per_min


def _too_many(wait_s: float) -> ApiError:
    return ApiError(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        message=f"This key has used up its rate. Try again in {math.ceil(wait_s)} s.",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=max(1, math.ceil(wait_s)),
        outcome=Outcome.REJECTED,
    )
