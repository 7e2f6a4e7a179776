"""`/v1/leases` over HTTP as pure functions from a request to a page; errors in OpenAI's form.

POST   /v1/leases              acquire          GET    /v1/leases?client=&device=&state=&page_size=&page_token=
POST   /v1/leases/{id}/renew   renew            DELETE /v1/leases/{id}   with `client` and `epoch` in the body
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson

from serve_app.leases.calls import CallError, LeaseCalls, key_error
from serve_app.leases.keyring import Asker, KeyRefused

PATH: Final = "/v1/leases"
_IN_PATH: Final = "lease_id"
_SERVER_ERROR: Final = 500
_TYPES: Final = {401: "authentication_error", 403: "permission_error"}
"""Error types as the gateway names them; of all others the first figure of the status decides."""


@dataclass(frozen=True, slots=True)
class RestAnswer:
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


async def answer_rest(
    calls: LeaseCalls, asker: Asker | KeyRefused, *, method: str, path: str, query: Mapping[str, str], body: bytes
) -> RestAnswer:
    """`path` begins with `/v1/leases`, already unquoted; the body's size is the caller's to limit."""
    if isinstance(asker, KeyRefused):
        return _error(key_error(asker))
    match method, path.removeprefix(PATH).strip("/").split("/"):
        case "GET", [""]:
            return _page(await calls.list(_typed(query), asker))
        case "POST", [""]:
            return _page(await calls.acquire(body, asker), done=HTTPStatus.CREATED)
        case "POST", [lease_id, "renew"]:
            return _page(await calls.renew(_with_id(body, lease_id), asker))
        case "DELETE", [lease_id] if lease_id:
            return _page(await calls.release(_with_id(body, lease_id), asker))
        case _, [""]:
            return _not_allowed(method, path, "GET, POST")
        case _, [_, "renew"]:
            return _not_allowed(method, path, "POST")
        case _, [_]:
            return _not_allowed(method, path, "DELETE")
    message = f"There is no such page under {PATH}."
    return _error(CallError(code="not_found", message=message, status=HTTPStatus.NOT_FOUND))


def _typed(query: Mapping[str, str]) -> dict[str, Any]:
    """Query values are text; the one number among them is made one, if it is one."""
    fields: dict[str, Any] = dict(query)
    if fields.get("page_size", "").isascii() and fields.get("page_size", "").isdigit():
        fields["page_size"] = int(fields["page_size"][:9])  # longer ones are too large all the same
    return fields


def _with_id(body: bytes, lease_id: str) -> bytes | dict[str, Any]:
    """The body with the id of the path; left as it is where it is no object, for the parser to refuse."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    return {**fields, _IN_PATH: lease_id} if isinstance(fields, dict) else body


def _page(answer: dict[str, Any] | CallError, *, done: int = HTTPStatus.OK) -> RestAnswer:
    return _error(answer) if isinstance(answer, CallError) else RestAnswer(done, orjson.dumps(answer))


def _error(error: CallError, *more: tuple[bytes, bytes]) -> RestAnswer:
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < _SERVER_ERROR else "server_error")
    fields: dict[str, Any] = {
        "message": error.message,
        "type": kind,
        "param": error.field,
        "code": error.code,
        "origin": "controller",
    }
    headers = [(b"content-type", b"application/json"), *more]
    if error.retry_after_ms is not None:
        fields["retry_after_ms"] = error.retry_after_ms
        headers.append((b"retry-after", str(math.ceil(error.retry_after_ms / 1000)).encode()))
    return RestAnswer(error.status, orjson.dumps({"error": fields}), tuple(headers))


def _not_allowed(method: str, path: str, allow: str) -> RestAnswer:
    message = f"{method} is not possible on {path}. Use {allow}."
    error = CallError(code="method_not_allowed", message=message, status=HTTPStatus.METHOD_NOT_ALLOWED)
    return _error(error, (b"allow", allow.encode()))
