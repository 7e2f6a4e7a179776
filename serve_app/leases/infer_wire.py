"""Infer as it stands on the wire, made into a request to the gateway, and the gateway's answer made into ours. Pure.

What a field may hold is the gateway's to say, so that all ways to a model refuse alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import Field, StrictBool, StrictInt, StrictStr

from serve_app.engines.protocol import Endpoint
from serve_app.gateway.decide import DOWNSHIFT_HEADER, MODE_HEADER, VERSION_HEADER
from serve_app.leases.rpcs import RpcError
from serve_app.leases.wire import WireRequest
from tracing.propagation import TRACEPARENT, parse_traceparent

MAX_EXTRA_CHARS: Final = 65_536
MAX_DEADLINE_MS: Final = 600_000
_HEADER_WORD: Final = r"^[\x21-\x7e]{0,128}$"
_OPTIONAL: Final = (
    "prompt",
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "frequency_penalty",
    "presence_penalty",
)
_BROKEN_OFF: Final = 502
"""An answer that fails after it began has no status of its own."""
_STREAMED: Final[dict[str, Any]] = {"stream": True, "stream_options": {"include_usage": True}}
_TEXT_ALONE: Final = frozenset({"role", "content"})
_STATUS: Final[dict[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    431: "INVALID_ARGUMENT",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ChatMessage(WireRequest):
    role: StrictStr
    content: StrictStr


class InferRequest(WireRequest):
    """InferRequest of modelops.proto; there every field says what it means. None: absent."""

    model: StrictStr = ""
    mode: StrictStr = Field("", pattern=_HEADER_WORD)
    messages: tuple[ChatMessage, ...] = ()
    prompt: StrictStr | None = None
    temperature: float | None = Field(None, strict=True, allow_inf_nan=False)
    top_p: float | None = Field(None, strict=True, allow_inf_nan=False)
    max_tokens: StrictInt | None = None
    stop: tuple[StrictStr, ...] = ()
    seed: StrictInt | None = None
    frequency_penalty: float | None = Field(None, strict=True, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, strict=True, allow_inf_nan=False)
    extra_json: StrictStr = Field("", max_length=MAX_EXTRA_CHARS)
    deadline_ms: StrictInt = Field(0, ge=0, le=MAX_DEADLINE_MS)
    no_store: StrictBool = False
    no_downshift: StrictBool = False
    weights_version: StrictStr = Field("", pattern=_HEADER_WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What of the call's own is passed on: the caller's key and its span. None: none was sent."""

    key: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRequest:
    path: str
    headers: dict[str, str]
    body: bytes


def gateway_request(asked: InferRequest, sender: Sender, *, streamed: bool = False) -> GatewayRequest:
    """The same request over HTTP. Raises: RpcError where it cannot be said there."""
    fields = _typed(asked)
    extra = _extra(asked.extra_json)
    twice = sorted(extra.keys() & (fields.keys() | _STREAMED.keys()))
    if twice:
        message = f"`extra_json` has '{twice[0][:64]}', which has a field of its own or is decided by the RPC."
        raise _wrong(f"{message} Leave it out.", field="extra_json")
    fields |= extra | (_STREAMED if streamed else {})
    if "prompt" in fields and "messages" in fields:
        raise _wrong("The request has `messages` and `prompt`. Send one.", field="prompt")
    path = Endpoint.COMPLETION if "prompt" in fields else Endpoint.CHAT
    return GatewayRequest(path=path.value, headers=_headers(asked, sender), body=orjson.dumps(fields))


def infer_answer(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The fields of an InferAnswer from a gateway's 200. Raises: RpcError where it is no completion."""
    try:
        document = orjson.loads(body)
        choices = document["choices"]
        told = {"usage": _usage(document), **_text(choices[0], "message"), **origin(headers)}
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise _no_completion(headers) from error
    if len(choices) > 1 or _says_more(choices[0], "message"):
        told["answer_json"] = body.decode()
    return told


def infer_chunk(event: bytes) -> dict[str, Any] | None:
    """The fields of an InferChunk from one server-sent event; None for one that says nothing, such as the end mark.

    Raises: RpcError where the event is an error.
    """
    data = event.strip().removeprefix(b"data:").strip()
    if data == b"[DONE]":
        return None
    try:
        document = orjson.loads(data)
        if "error" in document:
            raise _refused(_BROKEN_OFF, document, {})
        return _chunk(document) or None
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise _no_completion({}) from error


def infer_error(status: int, headers: Mapping[str, str], body: bytes) -> RpcError:
    """The gateway's refusal as ours, with its sentence."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    return _refused(status, document, headers)


def origin(headers: Mapping[str, str]) -> dict[str, Any]:
    """Who answered and how, as the gateway's headers tell. A checkpoint that does not say its step has none."""
    step = headers.get("x-headroom-checkpoint-step")
    told: dict[str, Any] = {
        "model": headers.get("x-headroom-model", ""),
        "mode": headers.get("x-headroom-mode", ""),
        "cache": headers.get("x-headroom-cache", ""),
        "weights_version": headers.get("x-headroom-weights-version", ""),
        "trace_id": _trace_id(headers),
        "downshifted_from": headers.get("x-headroom-downshifted-from", ""),
    }
    return told | ({"checkpoint_step": int(step)} if step is not None else {})


def _chunk(document: Mapping[str, Any]) -> dict[str, Any]:
    choices = document.get("choices") or []
    told = {**_text(choices[0], "delta"), "choice": choices[0].get("index", 0)} if choices else {}
    if choices and _says_more(choices[0], "delta"):
        told["choice_json"] = orjson.dumps(choices[0]).decode()
    return told | ({"usage": _usage(document)} if document.get("usage") else {})


def _typed(asked: InferRequest) -> dict[str, Any]:
    fields = {name: value for name in _OPTIONAL if (value := getattr(asked, name)) is not None}
    if asked.model:
        fields["model"] = asked.model
    if asked.stop:
        fields["stop"] = list(asked.stop)
    if asked.messages:
        fields["messages"] = [message.model_dump() for message in asked.messages]
    return fields


def _extra(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise _wrong("`extra_json` must be one JSON object of further fields of the request.", field="extra_json")
    return fields


def _headers(asked: InferRequest, sender: Sender) -> dict[str, str]:
    """What is no plain word is left out: the gateway refuses such a key, and standards ignore such a trace."""
    key, parent = sender.key or "", parse_traceparent((sender.traceparent or "").encode())
    named = {
        "content-type": "application/json",
        MODE_HEADER: asked.mode,
        VERSION_HEADER: asked.weights_version,
        DOWNSHIFT_HEADER: "no" if asked.no_downshift else "",
        "cache-control": "no-store" if asked.no_store else "",
        "authorization": f"Bearer {key}" if key and key.isascii() and key.isprintable() else "",
        TRACEPARENT: parent.header() if parent else "",
    }
    return {name: value for name, value in named.items() if value}


def _text(choice: Mapping[str, Any], part: str) -> dict[str, Any]:
    text = choice[part].get("content") if part in choice else choice["text"]
    return {"text": text or "", "finish_reason": choice.get("finish_reason") or ""}


def _says_more(choice: Mapping[str, Any], part: str) -> bool:
    said = choice.get(part) or {}
    return bool(choice.get("logprobs")) or any(value for name, value in said.items() if name not in _TEXT_ALONE)


def _usage(document: Mapping[str, Any]) -> dict[str, int]:
    usage = document.get("usage") or {}
    return {name: usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def _refused(status: int, document: object, headers: Mapping[str, str]) -> RpcError:
    error = document.get("error") if isinstance(document, dict) else None
    said: Mapping[str, Any] = error if isinstance(error, dict) else {}
    return RpcError(
        code=_STATUS.get(status, "UNKNOWN"),
        message=str(said.get("message") or f"The gateway refused with status {status} and no sentence of its own."),
        reason=_word(said.get("code") or said.get("type")),
        field=_word(said.get("param")),
        retry_after_ms=_milliseconds(headers.get("retry-after")),
        trace_id=_trace_id(headers),
    )


def _no_completion(headers: Mapping[str, str]) -> RpcError:
    message = "The gateway's answer is no completion. Ask again; an operator must look."
    return RpcError(code="INTERNAL", message=message, trace_id=_trace_id(headers))


def _word(value: object) -> str | None:
    return None if value is None else str(value)


def _milliseconds(seconds: str | None) -> int | None:
    return math.ceil(1000 * float(seconds)) if seconds is not None and seconds.isdigit() else None


def _trace_id(headers: Mapping[str, str]) -> str:
    return headers.get("x-trace-id", "")


def _wrong(message: str, *, field: str) -> RpcError:
    return RpcError(code="INVALID_ARGUMENT", message=message, reason="invalid_value", field=field)
