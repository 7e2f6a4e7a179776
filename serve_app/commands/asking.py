"""Asking a running cluster over HTTP, with our own errors for "nothing there" and "not Headroom"."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.errors import BadAnswer, HeadroomError, NotRunning

TIMEOUT_S = 5.0
_NO_SUCH_ROUTE = 404

M = TypeVar("M", bound=BaseModel)


def get_json(address: str, path: str, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON body, also of an error status: health is told with a 503.

    Raises: NotRunning when nothing answers in time, BadAnswer when it is not JSON or not our route.
    """
    return _json_of("GET", address, path, timeout_s=timeout_s)


def _json_of(method: str, address: str, path: str, *, body: object = None, timeout_s: float) -> Any:
    import httpx  # costs a tenth of a second, so only when something is asked

    url = f"{address.rstrip('/')}{path}"
    try:
        answer = httpx.request(method, url, json=body, timeout=timeout_s, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotRunning(
            f"Nothing answers at {address} ({type(error).__name__}).",
            expected="A running cluster.",
            advice="Start one with `headroom up`, or name another with --address.",
        ) from error
    try:
        told = answer.json()
    except ValueError as error:
        raise _foreign(url, f"status {answer.status_code} and no JSON") from error
    is_ours = isinstance(told, dict) and ("outcome" in told or _controllers_error(told) is not None)
    if answer.status_code == _NO_SUCH_ROUTE and not is_ours:
        raise _foreign(url, "status 404")
    return told


def get(model: type[M], address: str, path: str, *, timeout_s: float = TIMEOUT_S) -> M:
    """The body as `model`. Raises: as `get_json`, BadAnswer when it has another form, HeadroomError when refused."""
    told = get_json(address, path, timeout_s=timeout_s)
    refused = _controllers_error(told)
    if refused is not None:
        raise HeadroomError(refused)
    return _as(model, told, f"{address}{path}")


def post(model: type[M], address: str, path: str, body: object, *, timeout_s: float = TIMEOUT_S) -> M:
    """The answer to `body` as `model`. Raises: as `get`, and HeadroomError with the sentence of an error answer."""
    told = _json_of("POST", address, path, body=body, timeout_s=timeout_s)
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict):
        raise HeadroomError(str(error.get("message")))
    return _as(model, told, f"{address}{path}")


def _controllers_error(told: object) -> str | None:
    """The sentence of a refusal by the controller, which has the route that was asked for; else None."""
    error = told.get("error") if isinstance(told, dict) else None
    is_its = isinstance(error, dict) and error.get("origin") == "controller"
    return str(error.get("message")) if is_its and isinstance(error, dict) else None


def _as(model: type[M], body: object, url: str) -> M:
    try:
        return model.model_validate_json(_json_text(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the body"
        raise _foreign(url, f"{place}: {first['msg']}") from error


def _json_text(body: object) -> bytes:
    import orjson

    return orjson.dumps(body)


def _foreign(url: str, reason: str) -> BadAnswer:
    return BadAnswer(
        f"{url} does not answer as Headroom does: {reason}.",
        expected="A Headroom of this version.",
        advice="Look at what listens there, or name another with --address.",
    )
