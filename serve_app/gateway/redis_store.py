"""Stored answers in Redis, for gateways on several nodes that share one cache.

A slow or absent Redis costs one short wait and is then left alone for a second; the request goes on as a miss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from serve_app.gateway.cache import Entry, ReadyEntry, Usage, ready

TIMEOUT_S: Final = 0.25
REST_AFTER_OUTAGE_S: Final = 1.0
_PREFIX: Final = b"headroom:answer:2:"
_FIELDS: Final = ("mode", "model", "weights_version", "checkpoint_step", "stream")


class RedisStore:
    """`client` must not decode responses. Redis itself drops answers at their time."""

    kind = "redis"

    def __init__(self, client: Redis, *, clock: Callable[[], float], max_entry_bytes: int) -> None:
        self._client = client
        self._clock = clock
        self._max_entry_bytes = max_entry_bytes
        self._rest_until_s = float("-inf")
        self.num_outages = 0

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float], max_entry_bytes: int) -> RedisStore:
        client = Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        return cls(client, clock=clock, max_entry_bytes=max_entry_bytes)

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> ReadyEntry | None:
        if self._resting():
            return None
        name = _PREFIX + key.hex().encode()
        try:
            value = await self._client.get(name)
            left_ms = None if max_age_s is None else await self._client.pttl(name)
        except (RedisError, OSError):
            self._outage()
            return None
        found = _decoded(value) if isinstance(value, bytes) else None
        if found is None:
            return None
        entry, ttl_ms = found
        if max_age_s is not None and (left_ms is None or left_ms < 0 or ttl_ms - left_ms > max_age_s * 1000):
            return None
        return ready(entry)

    async def put(self, key: bytes, entry: Entry, *, ttl_s: float) -> None:
        if ttl_s <= 0 or entry.num_bytes > self._max_entry_bytes or self._resting():
            return
        try:
            ttl_ms = max(1, int(ttl_s * 1000))
            await self._client.set(_PREFIX + key.hex().encode(), _encoded(entry, ttl_ms), px=ttl_ms)
        except (RedisError, OSError):
            self._outage()

    def usage(self, mode: str) -> Usage:
        """Unknown: Redis is shared, and counting its keys would walk all of them."""
        return Usage(num_entries=None, num_bytes=None)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _resting(self) -> bool:
        return self._clock() < self._rest_until_s

    def _outage(self) -> None:
        self.num_outages += 1
        self._rest_until_s = self._clock() + REST_AFTER_OUTAGE_S


def _encoded(entry: Entry, ttl_ms: int) -> bytes:
    """One line of JSON with the origin, the time to live and the length of the body, then the body.

    The age of an answer is its time to live less what Redis says is left, so no two clocks are compared.
    """
    head: dict[str, Any] = {name: getattr(entry, name) for name in _FIELDS}
    return orjson.dumps({**head, "ttl_ms": ttl_ms, "body_bytes": len(entry.body)}) + b"\n" + entry.body


def _decoded(value: bytes) -> tuple[Entry, int] | None:
    """The entry and its time to live in milliseconds, or None when the value is cut or not ours."""
    line, _, body = value.partition(b"\n")
    try:
        head = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if (
        not isinstance(head, dict)
        or head.keys() != {*_FIELDS, "ttl_ms", "body_bytes"}
        or head["body_bytes"] != len(body)
    ):
        return None
    return Entry(body=body, **{name: head[name] for name in _FIELDS}), int(head["ttl_ms"])
