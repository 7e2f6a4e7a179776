"""Refusals of the HTTP address in OpenAI's error form.

An `ApiError` is a returned value, never raised: the caller decides where it is sent. It holds the facts the
client needs (which field, what to do) and nothing of the request's text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

import orjson


class Origin(StrEnum):
    """Which part of the product refused."""

    GATEWAY = "gateway"
    ENGINE = "engine"
    CONTROLLER = "controller"


class Outcome(StrEnum):
    """How a request ended; values of the label `outcome` of `headroom_inference_requests_total`."""

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """`param` is the path of the field at fault; `retry_after_s` is set where waiting helps."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    origin: Origin = Origin.GATEWAY
    retry_after_s: int | None = None
    allow: str | None = None
    """Value of the `Allow` header of a 405."""
    outcome: Outcome = Outcome.ERROR

    def body(self) -> bytes:
        """`{"error": {...}}` as OpenAI sends it, with the origin beside it."""
        return orjson.dumps({"error": self._fields()})

    def event(self) -> bytes:
        """The same as one server-sent event, for an answer that has already begun."""
        return b"data: " + self.body() + b"\n\n"

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode()))
        return headers

    def _fields(self) -> dict[str, str | int | None]:
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            "origin": self.origin.value,
        }


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is wrong and will not get better by waiting."""
    return ApiError(
        status=HTTPStatus.BAD_REQUEST,
        message=message,
        type="invalid_request_error",
        param=param,
        code=code,
        outcome=Outcome.REJECTED,
    )


def conflict(message: str, *, param: str | None = None, code: str) -> ApiError:
    """409: the request is in order, but not as things stand now."""
    return ApiError(
        status=HTTPStatus.CONFLICT,
        message=message,
        type="invalid_request_error",
        param=param,
        code=code,
        outcome=Outcome.REJECTED,
    )


def not_found(message: str, *, param: str | None = None, code: str) -> ApiError:
    return ApiError(
        status=HTTPStatus.NOT_FOUND,
        message=message,
        type="invalid_request_error",
        param=param,
        code=code,
        outcome=Outcome.REJECTED,
    )


def unavailable(
    message: str, *, code: str, retry_after_s: int | None = None, origin: Origin = Origin.GATEWAY
) -> ApiError:
    """503, with `Retry-After` where waiting helps."""
    return ApiError(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        message=message,
        type="server_error",
        code=code,
        origin=origin,
        retry_after_s=retry_after_s,
    )


def timed_out(message: str, *, code: str) -> ApiError:
    """504: the engine held the request but gave no token in time."""
    return ApiError(
        status=HTTPStatus.GATEWAY_TIMEOUT,
        message=message,
        type="timeout_error",
        code=code,
        origin=Origin.ENGINE,
        outcome=Outcome.TIMEOUT,
    )


def engine_fault(message: str, *, status: int = HTTPStatus.BAD_GATEWAY, code: str) -> ApiError:
    """The engine failed or answered something that is no answer."""
    return ApiError(status=status, message=message, type="server_error", code=code, origin=Origin.ENGINE)


def method_not_allowed(method: str, path: str, allow: str) -> ApiError:
    return ApiError(
        status=HTTPStatus.METHOD_NOT_ALLOWED,
        message=f"{method} is not possible on {path}. Use {allow}.",
        type="invalid_request_error",
        code="method_not_allowed",
        allow=allow,
        outcome=Outcome.REJECTED,
    )


def headers_too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        message=f"The request's headers are larger than the limit of {limit_bytes} bytes.",
        type="invalid_request_error",
        code="headers_too_large",
        outcome=Outcome.REJECTED,
    )


def body_too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        message=f"The request body is larger than the limit of {limit_bytes} bytes (`gateway.max_body_bytes`).",
        type="invalid_request_error",
        code="body_too_large",
        outcome=Outcome.REJECTED,
    )


def body_too_slow(limit_s: float) -> ApiError:
    return ApiError(
        status=HTTPStatus.REQUEST_TIMEOUT,
        message=f"The request body did not arrive within {limit_s:g} s.",
        type="timeout_error",
        code="body_too_slow",
        outcome=Outcome.REJECTED,
    )
