"""What can go wrong, and the one border at which errors of the libraries below become these.

ClientError
├── Unreachable     nothing answered, or the connection broke
├── TimedOut        no answer in time
├── BadRequest      400, 404, 405, 409, 413, 422 …: the request will not get better by waiting
├── NotAllowed      401, 403: no valid key, or one that may not do this
├── Overloaded      429, 503: try again after `retry_after_s`
├── ServerFault     any other 5xx, or an error in the midst of a stream
└── BrokenAnswer    something answered, but not as Headroom does, or only in part
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from serve_app.errors import HeadroomError


class ClientError(HeadroomError):
    """`status` is None where there was no answer; `retry_after_s` where waiting would not help or is unknown."""

    def __init__(self, what: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.status = status
        self.retry_after_s = retry_after_s


class Unreachable(ClientError): ...


class TimedOut(ClientError): ...


class BadRequest(ClientError): ...


class NotAllowed(ClientError): ...


class Overloaded(ClientError): ...


class ServerFault(ClientError): ...


class BrokenAnswer(ClientError): ...


_RETRY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})

FOREIGN: Final[dict[str, type[ClientError]]] = {
    # openai
    "APITimeoutError": TimedOut,
    "APIConnectionError": Unreachable,
    "APIResponseValidationError": BrokenAnswer,
    "LengthFinishReasonError": BrokenAnswer,
    "ContentFilterFinishReasonError": BrokenAnswer,
    "StreamAlreadyConsumed": BrokenAnswer,
    "WebSocketConnectionClosedError": Unreachable,
    "WebSocketQueueFullError": Overloaded,
    "SubjectTokenProviderError": NotAllowed,
    "MutuallyExclusiveAuthError": NotAllowed,
    "APIRemovedInV1": BadRequest,
    "_AmbiguousModuleClientUsageError": BadRequest,
    "APIError": ServerFault,  # an error event in the midst of a stream
    # httpx, and the httpx2 under openai
    "TimeoutException": TimedOut,
    "TransportError": Unreachable,
    "DecodingError": BrokenAnswer,
    "TooManyRedirects": BrokenAnswer,
    "InvalidURL": BadRequest,
    "StreamError": BrokenAnswer,
    "CookieConflict": BrokenAnswer,
}
"""By the name of the class or of its nearest base that is here, so that naming them loads nothing.

Errors with a status (`APIStatusError`, `HTTPStatusError`) are mapped by that.
"""
BY_STATUS: Final = frozenset({"APIStatusError", "HTTPStatusError"})


def kind_of(error: type[BaseException]) -> type[ClientError] | None:
    """What a foreign error without status becomes; None for one that is not foreign."""
    return next((FOREIGN[base.__name__] for base in error.__mro__ if base.__name__ in FOREIGN), None)


def mapped(error: Exception) -> ClientError | None:
    """Ours for an error of the libraries below; None where it is none of theirs, and so a bug or ours already."""
    if any(base.__name__ in BY_STATUS for base in type(error).__mro__):
        response = error.response  # type: ignore[attr-defined]  # both classes have one
        body = getattr(error, "body", None)
        return of_status(response.status_code, {"error": body}, response.headers)
    kind = kind_of(type(error))
    if kind is None:
        return None
    return kind(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def of_status(status: int, body: object, headers: Mapping[str, str]) -> ClientError:
    """The error that an answer with this status is; `body` in OpenAI's form where it is Headroom's."""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    what = str(message or f"The server answered with status {status}.")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return NotAllowed(what, status=status)
    if status in _RETRY:
        return Overloaded(what, status=status, retry_after_s=_seconds(headers.get("retry-after")))
    kind = ServerFault if status >= HTTPStatus.INTERNAL_SERVER_ERROR else BadRequest
    return kind(what, status=status)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 7 else None
