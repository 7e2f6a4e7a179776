"""Stored answers in Redis, for gateways on several nodes that share one cache.

A slow or absent Redis costs one short wait and is then left alone for a second; the request goes on as a miss. So does
what is not Redis at all, and a value that is not ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from serve_app.gateway.cache import Entry, ReadyEntry, Usage, ready

TIMEOUT_S: Final = 0.25
"""For connecting, and for each look-up or write as a whole: a Redis that answers in trickles is slow too."""
MAX_AT_ONCE: Final = 64
"""Further look-ups and writes wait: a crowd of requests is no outage, and the client refuses what is too much."""
REST_AFTER_OUTAGE_S: Final = 1.0
_PREFIX: Final = b"headroom:answer:2:"
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "mode": (str,),
    "model": (str,),
    "weights_version": (str,),
    "checkpoint_step": (int, type(None)),
    "stream": (bool,),
}
_WRONG_TYPE: Final = "WRONGTYPE"


class RedisStore:
    """`client` must not decode responses. Redis itself drops answers at their time."""

    kind = "redis"

    def __init__(
        self, client: Redis, *, clock: Callable[[], float], max_entry_bytes: int, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        self._client = client
        self._clock = clock
        self._max_entry_bytes = max_entry_bytes
        self._rest_until_s = float("-inf")
        self.num_outages = 0

    @classmethod
    def from_url(
        cls, url: str, *, clock: Callable[[], float], max_entry_bytes: int, timeout_s: float = TIMEOUT_S
    ) -> RedisStore:
        client = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, max_connections=MAX_AT_ONCE
        )
        return cls(client, clock=clock, max_entry_bytes=max_entry_bytes, timeout_s=timeout_s)

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> ReadyEntry | None:
        if self._resting():
            return None
        name = _PREFIX + key.hex().encode()
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                value = await self._client.get(name)
                left_ms = None if max_age_s is None else await self._client.pttl(name)
        except Exception as error:  # noqa: BLE001  # what answers there may speak anything
            self._failed(error)
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
        ttl_ms = max(1, int(ttl_s * 1000))
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                await self._client.set(_PREFIX + key.hex().encode(), _encoded(entry, ttl_ms), px=ttl_ms)
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(error)

    def usage(self, mode: str) -> Usage:
        """Unknown: Redis is shared, and counting its keys would walk all of them."""
        return Usage(num_entries=None, num_bytes=None)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _resting(self) -> bool:
        return self._clock() < self._rest_until_s

    def _failed(self, error: Exception) -> None:
        """A key of another type is one key's fault: there Redis itself is well."""
        if isinstance(error, ResponseError) and str(error).startswith(_WRONG_TYPE):
            return
        self.num_outages += 1
        self._rest_until_s = self._clock() + REST_AFTER_OUTAGE_S


def _encoded(entry: Entry, ttl_ms: int) -> bytes:
    """One line of JSON with the origin, the time to live and the length of the body, then the body.

    The age of an answer is its time to live less what Redis says is left, so no two clocks are compared.
    """
    head: dict[str, Any] = {name: getattr(entry, name) for name in _TYPES}
    return orjson.dumps({**head, "ttl_ms": ttl_ms, "body_bytes": len(entry.body)}) + b"\n" + entry.body


def _decoded(value: bytes) -> tuple[Entry, int] | None:
    """The entry and its time to live in milliseconds, or None when the value is cut or not ours."""
    line, _, body = value.partition(b"\n")
    try:
        head = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(head, dict) or head.keys() != {*_TYPES, "ttl_ms", "body_bytes"}:
        return None
    if any(type(head[name]) not in kinds for name, kinds in _TYPES.items()):
        return None
    if type(head["ttl_ms"]) is not int or head["body_bytes"] != len(body):
        return None
    return Entry(body=body, **{name: head[name] for name in _TYPES}), head["ttl_ms"]
