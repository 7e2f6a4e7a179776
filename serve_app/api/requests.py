"""From the bytes of a request body to a checked request: one parse, no pydantic, no copy of the text.

Pure. Knows the wire form only; which model answers is decided in `serve_app.gateway.decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from serve_app.api.errors import ApiError, invalid
from serve_app.api.fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    IGNORED_FIELDS,
    MAX_PROMPTS,
    NUMBER_FIELDS,
    REFUSED_FIELDS,
    Check,
)
from serve_app.engines.protocol import Endpoint

MAX_ANSWERS = MAX_PROMPTS
"""Most choices of one request, `n` times the number of prompts."""

_FIELDS: Mapping[Endpoint, Mapping[str, Check]] = {Endpoint.CHAT: CHAT_FIELDS, Endpoint.COMPLETION: COMPLETION_FIELDS}
_CONTENT: Mapping[Endpoint, str] = {Endpoint.CHAT: "messages", Endpoint.COMPLETION: "prompt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """A checked request. `fields` holds every field to forward, without nulls; treat it as immutable.

    `model` is what the caller named (a model, a mode, or None); `num_choices` is what a whole answer holds.
    """

    endpoint: Endpoint
    model: str | None
    stream: bool
    include_usage: bool
    num_choices: int
    max_tokens: int | None
    fields: Mapping[str, Any]


def parse_request(endpoint: Endpoint, body: bytes) -> InferenceRequest | ApiError:
    """Parse and check one body."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        return invalid(f"The request body is not valid JSON ({place}).", code="invalid_json")
    if not isinstance(document, dict):
        return invalid("The request body must be a JSON object.", code="invalid_json")
    fields = {name: value for name, value in document.items() if value is not None and name not in IGNORED_FIELDS}
    return _first_problem(endpoint, fields) or _request(endpoint, fields)


def _first_problem(endpoint: Endpoint, fields: Mapping[str, Any]) -> ApiError | None:
    checks = _FIELDS[endpoint]
    for name, value in fields.items():
        check = checks.get(name)
        if check is None:
            return _unknown_field(name, checks)
        problem = check(value)
        if problem is not None:
            return _bad_value(name, problem)
    if _CONTENT[endpoint] not in fields:
        name = _CONTENT[endpoint]
        return invalid(f"The request needs `{name}`.", param=name, code="missing_required_parameter")
    return _conflict(fields)


def _bad_value(name: str, problem: str) -> ApiError:
    if problem.startswith("["):  # the problem names an element of the list itself
        index, _, rest = problem.partition(" ")
        return invalid(f"`{name}{index}` {rest}.", param=f"{name}{index}", code="invalid_value")
    return invalid(f"`{name}` {problem}.", param=name, code="invalid_value")


def _conflict(fields: Mapping[str, Any]) -> ApiError | None:
    if "stream_options" in fields and not fields.get("stream"):
        return invalid("`stream_options` needs `stream` to be true.", param="stream_options", code="invalid_value")
    if fields.get("top_logprobs") and not fields.get("logprobs"):
        return invalid("`top_logprobs` needs `logprobs` to be true.", param="top_logprobs", code="invalid_value")
    if "max_tokens" in fields and fields.get("max_completion_tokens", fields["max_tokens"]) != fields["max_tokens"]:
        message = "`max_tokens` and `max_completion_tokens` differ; send one."
        return invalid(message, param="max_tokens", code="conflict")
    if _num_choices(fields) > MAX_ANSWERS:
        return invalid(f"`n` times the prompts must be at most {MAX_ANSWERS}.", param="n", code="invalid_value")
    return None


def _unknown_field(name: str, checks: Mapping[str, Check]) -> ApiError:
    shown = name[:64]
    reason = REFUSED_FIELDS.get(name)
    if reason is not None:
        return invalid(f"`{shown}` is refused: {reason}.", param=shown, code="refused_parameter")
    valid = ", ".join(sorted(checks))
    return invalid(f"Unknown field '{shown}'. Valid fields: {valid}.", param=shown, code="unknown_parameter")


def _num_choices(fields: Mapping[str, Any]) -> int:
    prompt = fields.get("prompt")
    is_batch = isinstance(prompt, list) and not isinstance(prompt[0], int)
    num_choices: int = fields.get("n", 1)
    return num_choices * (len(prompt) if is_batch and prompt else 1)


def _normalise(fields: dict[str, Any]) -> None:
    """Write alike what means the same, so that it has one name in the cache: 0 and 0.0, one choice said or unsaid."""
    for name in NUMBER_FIELDS & fields.keys():
        fields[name] = float(fields[name]) + 0.0  # makes -0.0 zero too
    if fields.get("n") == 1:
        del fields["n"]
    if fields.get("stream") is False:
        del fields["stream"]


def _request(endpoint: Endpoint, fields: dict[str, Any]) -> InferenceRequest:
    _normalise(fields)
    return InferenceRequest(
        endpoint=endpoint,
        model=fields.get("model"),
        stream=fields.get("stream", False),
        include_usage=fields.get("stream_options", {}).get("include_usage", False),
        num_choices=_num_choices(fields),
        max_tokens=fields.get("max_completion_tokens", fields.get("max_tokens")),
        fields=fields,
    )
