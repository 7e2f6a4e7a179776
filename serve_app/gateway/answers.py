"""What an engine's answer is worth: whole and good, good, an error of the engine, or no answer at all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson

from serve_app.api.errors import ApiError, Origin, Outcome, engine_fault, unavailable
from serve_app.gateway.sse import GOOD_FINISHES

RETRY_S: Final = 1
_GOOD: Final = frozenset(reason.decode() for reason in GOOD_FINISHES)
_OURS_TO_EXPLAIN: Final = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
)
"""Statuses by which an engine says that the gateway asked wrongly; the caller did nothing wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What `usage` reports; `cached` are input tokens that the engine's prefix cache held."""

    input: int
    output: int
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnaryAnswer:
    """`whole` is True when every choice ended well, so that the answer may be stored."""

    response_id: str | None
    finish_reasons: tuple[str, ...]
    tokens: Tokens | None
    whole: bool


def read_unary(body: bytes, *, model: str, num_choices: int) -> UnaryAnswer | ApiError:
    """Judge a 200 that is not a stream. What is no completion of `model` is a 502."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return no_completion(model)
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or document.get("model") != model or not all(isinstance(c, dict) for c in choices):
        return no_completion(model)
    finishes = tuple(str(choice.get("finish_reason")) for choice in choices)
    response_id = document.get("id")
    return UnaryAnswer(
        response_id=response_id if isinstance(response_id, str) else None,
        finish_reasons=finishes,
        tokens=read_usage(document.get("usage")),
        whole=len(choices) == num_choices and _GOOD.issuperset(finishes),
    )


def read_usage(usage: object) -> Tokens | None:
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return Tokens(
        input=_count(usage.get("prompt_tokens")), output=_count(usage.get("completion_tokens")), cached=_count(cached)
    )


def read_error(status: int, body: bytes, *, model: str) -> ApiError:
    """An engine's refusal in OpenAI's form. What the caller cannot have caused becomes a 502."""
    if status in _OURS_TO_EXPLAIN or status < HTTPStatus.BAD_REQUEST:
        message = f"The engine of '{model}' refused the gateway with status {status}."
        return engine_fault(message, code="engine_refused_gateway")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return went_away(model)
    error = _error_fields(body)
    return ApiError(
        status=status,
        message=_text(error.get("message")) or f"The engine of '{model}' failed with status {status}.",
        type=_text(error.get("type")) or ("server_error" if status >= 500 else "invalid_request_error"),
        param=_text(error.get("param")),
        code=_text(error.get("code")),
        origin=Origin.ENGINE,
        outcome=Outcome.REJECTED if status < HTTPStatus.INTERNAL_SERVER_ERROR else Outcome.ERROR,
    )


def went_away(model: str, *, retry_after_s: int = RETRY_S) -> ApiError:
    """503: no replica answered before anything was sent, so the same request may simply be sent again."""
    message = f"No replica of '{model}' could take the request. Nothing was answered yet; try again."
    return unavailable(message, code="engine_unavailable", retry_after_s=retry_after_s, origin=Origin.ENGINE)


def died_midway(model: str) -> ApiError:
    message = f"The engine of '{model}' went away in the middle of this answer. What was sent is incomplete."
    return engine_fault(message, status=HTTPStatus.SERVICE_UNAVAILABLE, code="engine_died")


def no_completion(model: str) -> ApiError:
    return engine_fault(f"The engine of '{model}' answered something that is no completion.", code="engine_garbage")


def too_large(model: str, limit_bytes: int) -> ApiError:
    message = f"The engine of '{model}' sent more than {limit_bytes} bytes in one piece."
    return engine_fault(message, code="engine_answer_too_large")


def _error_fields(body: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
