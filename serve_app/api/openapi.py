"""The HTTP address as an OpenAPI 3.1 document: routes, bodies, and who may ask. Pure.

Says what is accepted, field by field, from the same lists that requests are checked by; answers are only named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from serve_app.access.needs import Anyone, need_of
from serve_app.api.control_routes import CONTROL_ROUTES
from serve_app.api.fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_PROMPTS,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TOOLS,
)
from serve_app.api.messages import MAX_MESSAGES
from serve_app.api.wire import ApplyRequest, ModelAction, ModelRequest, RouteAsked
from serve_app.engines.protocol import Endpoint
from serve_app.jobs.wire import JobRequest
from serve_app.leases.wire import AcquireRequest
from serve_app.scaling.page import PATH as SCALING
from serve_app.scaling.page import ScaleRequest

Schema = Mapping[str, Any]

_INT64: Final = 2**63 - 1
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_STRING: Final[Schema] = {"type": "string"}
_TOKENS: Final[Schema] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_STOP: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
_TEXT: Final[Schema] = {"type": "string", "minLength": 1}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _integer(low: int, high: int | None = None) -> Schema:
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})


def _list(items: Schema, *, most: int, least: int = 1) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _object(properties: Schema, *, required: Iterable[str] = ()) -> Schema:
    needed = list(required)
    shown = {"type": "object", "properties": properties, "additionalProperties": False}
    return shown | ({"required": needed} if needed else {})


_FUNCTION: Final[Schema] = {
    "type": "object",
    "properties": {"name": _STRING, "parameters": {"type": "object"}},
    "required": ["name"],
}
FIELD_SCHEMAS: Final[Mapping[str, Schema]] = {
    "model": {"type": "string", "maxLength": 128},
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0, "maximum": 4},
    "logit_bias": {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]+$"},
        "additionalProperties": _number(-100, 100),
        "maxProperties": MAX_LOGIT_BIAS,
    },
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "min_tokens": _integer(0, _INT64),
    "n": _integer(1, MAX_CHOICES),
    "seed": _integer(-_INT64 - 1, _INT64),
    "stop": {"oneOf": [_STOP, _list(_STOP, most=MAX_STOPS, least=0)]},
    "stop_token_ids": {**_TOKENS, "maxItems": MAX_STOPS},
    "stream": _BOOLEAN,
    "stream_options": _object({"include_usage": _BOOLEAN}),
    "temperature": _number(0, 2),
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "top_k": _integer(-1, 1_000_000),
    "min_p": _number(0, 1),
    "ignore_eos": _BOOLEAN,
    "skip_special_tokens": _BOOLEAN,
    "include_stop_str_in_output": _BOOLEAN,
    "response_format": {
        "oneOf": [
            _object({"type": {"enum": ["text", "json_object"]}}, required=["type"]),
            _object(
                {"type": {"const": "json_schema"}, "json_schema": {"type": "object"}}, required=["type", "json_schema"]
            ),
        ]
    },
    "messages": _list(
        {
            "type": "object",
            "properties": {
                "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
                "content": _STRING,
            },
            "required": ["role", "content"],
        },
        most=MAX_MESSAGES,
    ),
    "top_logprobs": _integer(0, MAX_LOGPROBS),
    "tools": _list(
        {
            "type": "object",
            "properties": {"type": {"const": "function"}, "function": _FUNCTION},
            "required": ["type", "function"],
        },
        most=MAX_TOOLS,
    ),
    "tool_choice": {
        "oneOf": [
            {"enum": ["none", "auto", "required"]},
            _object(
                {"type": {"const": "function"}, "function": _object({"name": _STRING}, required=["name"])},
                required=["type", "function"],
            ),
        ]
    },
    "parallel_tool_calls": _BOOLEAN,
    "reasoning_effort": {"enum": ["none", "minimal", "low", "medium", "high"]},
    "prompt": {
        "oneOf": [_TEXT, _TOKENS, _list(_TEXT, most=MAX_PROMPTS), _list(_TOKENS, most=MAX_PROMPTS)],
    },
    "echo": _BOOLEAN,
}
"""What each field of a request may be. `logprobs` differs between the two endpoints."""

_LOGPROBS: Final[Mapping[Endpoint, Schema]] = {
    Endpoint.CHAT: _BOOLEAN,
    Endpoint.COMPLETION: _integer(0, MAX_LOGPROBS),
}
_FIELDS: Final = {Endpoint.CHAT: CHAT_FIELDS, Endpoint.COMPLETION: COMPLETION_FIELDS}
_NEEDED: Final = {Endpoint.CHAT: "messages", Endpoint.COMPLETION: "prompt"}
_BODIES: Final[Mapping[str, type[BaseModel]]] = {
    "/admin/apply": ApplyRequest,
    "/admin/route/explain": RouteAsked,
    SCALING: ScaleRequest,
    "/v1/jobs": JobRequest,
    "/v1/leases": AcquireRequest,
}
_ERROR: Final[Schema] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": _STRING, "type": _STRING, "param": {}, "code": {}, "origin": _STRING},
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_OUTCOME: Final[Schema] = {
    "type": "object",
    "properties": {"outcome": _STRING, "message": _STRING},
    "required": ["outcome"],
}
_TELL_OUTCOMES: Final = frozenset({"/admin/apply", *(f"/models/{action.value}" for action in ModelAction)})
"""What these refuse they tell in their own form: the refusal is their answer."""


def openapi_document(*, reads: Iterable[str], posts: Collection[str]) -> dict[str, Any]:
    """`reads` and `posts` are the gateway's own pages; inference and what the controller answers are added."""
    paths: dict[str, dict[str, Any]] = {}
    for template, method in _operations(reads, posts):
        paths.setdefault(template, {})[method.lower()] = _operation(template, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headroom", "version": "1"},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR, "Outcome": _OUTCOME},
        },
    }


def request_schema(endpoint: Endpoint) -> Schema:
    fields = {name: _LOGPROBS[endpoint] if name == "logprobs" else FIELD_SCHEMAS[name] for name in _FIELDS[endpoint]}
    return _object(fields, required=[_NEEDED[endpoint]])


def _operations(reads: Iterable[str], posts: Collection[str]) -> Iterator[tuple[str, str]]:
    yield from ((endpoint.value, "POST") for endpoint in Endpoint)
    yield from ((path, "GET") for path in reads)
    yield from ((path, "POST") for path in posts)
    yield from ((route.template, method) for route in CONTROL_ROUTES for method in route.methods)


def _operation(template: str, method: str) -> dict[str, Any]:
    is_open = need_of(template, method) is Anyone.OPEN
    forms = ("Error", "Outcome") if template in _TELL_OUTCOMES else ("Error",)
    schema = {"anyOf": [{"$ref": f"#/components/schemas/{form}"} for form in forms]}
    refused = {"application/json": {"schema": schema}}
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()} {template}",
        "security": [] if is_open else [{"key": []}],
        "responses": {
            "2XX": {"description": "Done."},
            "default": {"description": "Refused or failed, and why.", "content": refused},
        },
    }
    if "{id}" in template:
        operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": _TEXT}]
    if method == "POST":
        operation["requestBody"] = {"content": {"application/json": {"schema": _body(template)}}}
    return operation


def _body(template: str) -> Schema:
    """Bodies whose models would bring much of the controller into the gateway are said to be objects, and no more."""
    endpoint = next((one for one in Endpoint if one.value == template), None)
    if endpoint is not None:
        return request_schema(endpoint)
    model = ModelRequest if template.startswith("/models/") else _BODIES.get(template)
    return {"type": "object"} if model is None else model.model_json_schema()
