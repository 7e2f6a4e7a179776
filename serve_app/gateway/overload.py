"""What is said to a request of which the gateway, its model or its device has too many. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from serve_app.api.errors import ApiError, Outcome

OVERLOADED: Final = "overloaded"


def too_many(limit: int) -> ApiError:
    """503 of a gateway replica that already has `limit` runs in flight."""
    return ApiError(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        message=f"This gateway already has {limit} requests in flight. Try again in a second.",
        type="server_error",
        code="overloaded",
        retry_after_s=1,
        outcome=Outcome.REJECTED,
    )


def overloaded(model: str, *, retry_after_s: int, waited: bool = False) -> ApiError:
    """503 of a model with more requests than it can answer in time."""
    reason = "The request waited for it as long as it may." if waited else "Its queue is full."
    return ApiError(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        message=f"The model '{model}' has more requests than it can answer. {reason} Try again in {retry_after_s} s.",
        type="server_error",
        code=OVERLOADED,
        retry_after_s=retry_after_s,
        outcome=Outcome.REJECTED,
    )


def tenant_overloads(model: str, *, retry_after_s: int) -> ApiError:
    """429 of a tenant that fills its part of a queue in which others wait too."""
    return ApiError(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        message=f"Your requests fill your part of the queue of '{model}'. Try again in {retry_after_s} s.",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=retry_after_s,
        outcome=Outcome.REJECTED,
    )


def throttled(model: str) -> ApiError:
    """503 while every device that the model runs on is throttled and has all the requests it may take."""
    return ApiError(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        message=f"The devices of '{model}' are throttled and take no more requests now. Try again in a second.",
        type="server_error",
        code="device_throttled",
        retry_after_s=1,
        outcome=Outcome.REJECTED,
    )
