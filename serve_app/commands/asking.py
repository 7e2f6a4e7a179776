"""Asking a running cluster over HTTP, with our own errors for "nothing there" and "not Headroom"."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.client.terms import CA_VARIABLE, terms_of
from serve_app.errors import BadAnswer, HeadroomError, NotRunning

TIMEOUT_S = 5.0
_NO_SUCH_ROUTE = 404
_KEY_STATUSES = (401, 403)

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
        answer = httpx.request(method, url, json=body, timeout=timeout_s, **connection())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise unreached(address, error) from error
    try:
        told = answer.json()
    except ValueError as error:
        raise _foreign(url, f"status {answer.status_code} and no JSON") from error
    if answer.status_code in _KEY_STATUSES:
        raise _told_off(told)
    if answer.status_code == _NO_SUCH_ROUTE and _code(told) not in (None, "unknown_path"):
        raise _told_off(told)
    if answer.status_code == _NO_SUCH_ROUTE and not (isinstance(told, dict) and "outcome" in told):
        raise _foreign(url, "status 404")
    return told


def get(model: type[M], address: str, path: str, *, timeout_s: float = TIMEOUT_S) -> M:
    """The body as `model`. Raises: as `get_json`, BadAnswer when it has another form, HeadroomError when refused."""
    told = get_json(address, path, timeout_s=timeout_s)
    if isinstance(told, dict) and isinstance(told.get("error"), dict):
        raise _told_off(told)
    return _as(model, told, f"{address}{path}")


def post(model: type[M], address: str, path: str, body: object, *, timeout_s: float = TIMEOUT_S) -> M:
    """The answer to `body` as `model`. Raises: as `get`, and HeadroomError with the sentence of an error answer."""
    told = _json_of("POST", address, path, body=body, timeout_s=timeout_s)
    if isinstance(told, dict) and isinstance(told.get("error"), dict):
        raise _told_off(told)
    return _as(model, told, f"{address}{path}")


def call(method: str, address: str, path: str, *, body: object = None, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """The answer as it is. Raises: as `get_json`, and HeadroomError with the sentence of an error answer."""
    told = _json_of(method, address, path, body=body, timeout_s=timeout_s)
    if not isinstance(told, dict):
        raise _foreign(f"{address}{path}", "no JSON object")
    if isinstance(told.get("error"), dict):
        raise _told_off(told)
    return told


def delete(model: type[M], address: str, path: str, *, timeout_s: float = TIMEOUT_S) -> M:
    """What is told of the deleted. Raises: as `get`."""
    return _as(model, _json_of("DELETE", address, path, body={}, timeout_s=timeout_s), f"{address}{path}")


def connection() -> dict[str, Any]:
    """What every request of a command is sent with: the key and whom to trust, by HEADROOM_KEY and HEADROOM_CA_FILE.

    Raises: HeadroomError when the CA file cannot be read.
    """
    terms = terms_of(num_retries=0)
    return {"headers": terms.headers, "verify": terms.trust, "trust_env": False}


def unreached(address: str, error: Exception) -> HeadroomError:
    """Why there is no answer from `address`; a certificate that is not trusted is told from nobody there."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return HeadroomError(
            f"{address} is there, but its certificate is not trusted: {error}.",
            advice=f"Name the PEM file of its authority, or its own certificate, by {CA_VARIABLE}.",
        )
    return NotRunning(
        f"Nothing answers at {address} ({type(error).__name__}).",
        expected="A running cluster.",
        advice="Start one with `headroom up`, or name another with --address; with a certificate it is https://….",
    )


def _code(told: object) -> object:
    error = told.get("error") if isinstance(told, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _told_off(told: object) -> HeadroomError:
    """The sentence of an error answer as an error of ours."""
    error = told.get("error") if isinstance(told, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return HeadroomError(str(message or "The cluster refused, and did not say why."))


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
