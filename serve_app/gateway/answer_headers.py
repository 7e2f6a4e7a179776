"""The `x-headroom-*` headers of an answer, built once per kind of answer and shared between requests. Pure."""

from __future__ import annotations

import math
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_BUFFERING = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class CacheState(StrEnum):
    """Values of `x-headroom-cache`."""

    HIT = "hit"
    MISS = "miss"
    SHARED = "shared"
    """Answered by a run that another request had already begun."""
    SEMANTIC = "semantic"
    """A stored answer to a similar question of the same group."""
    BYPASS = "bypass"


class Answered(Protocol):
    """What an answer says of its origin."""

    @property
    def mode(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def weights_version(self) -> str: ...
    @property
    def checkpoint_step(self) -> int | None: ...


class StoredAnswer(Answered, Protocol):
    @property
    def stream(self) -> bool: ...
    @property
    def body(self) -> bytes: ...


def own_headers(trace_id: str, request_id: bytes | None) -> Headers:
    """By which the caller can name this request; `request_id` None where the server around us names it."""
    named = [] if request_id is None else [(b"x-request-id", request_id)]
    return [(b"x-trace-id", trace_id.encode()), *named]


def origin_headers(answer: Answered, state: CacheState) -> Headers:
    """Who answered and how. `x-headroom-checkpoint-step` is left out when the checkpoint does not say."""
    return list(_origin(answer.mode, answer.model, answer.weights_version, answer.checkpoint_step, state))


def stream_headers(answer: Answered, state: CacheState) -> Headers:
    return [EVENTS, *_NO_BUFFERING, *origin_headers(answer, state)]


def hit_headers(entry: StoredAnswer, state: CacheState = CacheState.HIT) -> Headers:
    """Headers of a stored answer; the whole is sent at once, so even a stream has a length."""
    length = (b"content-length", str(len(entry.body)).encode())
    return [EVENTS if entry.stream else JSON, length, *origin_headers(entry, state)]


def similar_headers(entry: StoredAnswer, similarity: float) -> Headers:
    """Of an answer to a similar question; `similarity` is rounded down, so that 1 is said of 1 alone."""
    shown = b"%.4f" % (math.floor(similarity * 10_000) / 10_000)
    return [*hit_headers(entry, CacheState.SEMANTIC), (b"x-headroom-cache-similarity", shown)]


@lru_cache(maxsize=512)
def _origin(
    mode: str, model: str, version: str, step: int | None, state: CacheState
) -> tuple[tuple[bytes, bytes], ...]:
    known_step = () if step is None else ((b"x-headroom-checkpoint-step", str(step).encode()),)
    return (
        (b"x-headroom-model", model.encode()),
        (b"x-headroom-mode", mode.encode()),
        (b"x-headroom-cache", state.value.encode()),
        (b"x-headroom-weights-version", version.encode()),
        *known_step,
    )
