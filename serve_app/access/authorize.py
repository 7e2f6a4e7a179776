"""May this request do this? From the matched route and the headers sent to a caller or a refusal. Pure.

Every key that is not valid gets the same 401, whatever is wrong with it: none, unknown, revoked, expired, sent twice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from serve_app.access.keys import EVERYTHING, Grant, KeyRecord, KeySnapshot, Role
from serve_app.access.needs import Anyone, Need, need_of
from serve_app.api.errors import ApiError, Outcome

LOCAL_TENANT: Final = "local"
AUTHORIZATION: Final = b"authorization"
MAX_HEADER_BYTES: Final = 256
"""A key has 59; a longer header is no key, and is not looked at."""
_SCHEME: Final = b"bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """`key_id` is empty while there are no keys, and for open routes. Caches are split by `tenant`, never empty."""

    key_id: str
    tenant: str
    grant: Grant


LOCAL: Final = Caller(key_id="", tenant=LOCAL_TENANT, grant=EVERYTHING)
ANONYMOUS: Final = Caller(key_id="", tenant="anonymous", grant=Grant(roles=frozenset(), tenant="anonymous"))

NOT_KNOWN: Final = ApiError(
    status=HTTPStatus.UNAUTHORIZED,
    message="This needs a valid key. Send one as `Authorization: Bearer hr_…`; an admin makes them: `headroom keys`.",
    type="authentication_error",
    code="invalid_api_key",
    outcome=Outcome.REJECTED,
)


def authorize(
    route: str | None, method: str, headers: Iterable[tuple[bytes, bytes]], snapshot: KeySnapshot, *, now_s: float
) -> Caller | ApiError:
    """`headers` have names in lower case, as ASGI gives them; `now_s` is Unix time."""
    if not snapshot.is_closed:
        return LOCAL
    need = need_of(route, method)
    if need is Anyone.OPEN:
        return ANONYMOUS
    record = holder_of([value for name, value in headers if name == AUTHORIZATION], snapshot, now_s=now_s)
    if record is None:
        return NOT_KNOWN
    return caller_of(record) if satisfies(record.grant, need) else _role_missing(need)


def holder_of(sent: list[bytes], snapshot: KeySnapshot, *, now_s: float) -> KeyRecord | None:
    """The valid key in one `Authorization` header; two headers are none, even where they are equal."""
    if len(sent) != 1 or len(sent[0]) > MAX_HEADER_BYTES or sent[0][: len(_SCHEME)].lower() != _SCHEME:
        return None
    return snapshot.holder(sent[0][len(_SCHEME) :].strip(b" "), now_s=now_s)


def caller_of(record: KeyRecord) -> Caller:
    tenant = record.grant.tenant if record.grant.tenant is not None else LOCAL_TENANT
    return Caller(key_id=record.id, tenant=tenant, grant=record.grant)


def satisfies(grant: Grant, need: Need) -> bool:
    return grant.has(need) if isinstance(need, Role) else True


def may_use(caller: Caller, model: str) -> ApiError | None:
    """Asked with the model that would answer, also after a downshift."""
    models = caller.grant.models
    return None if models is None or model in models else not_allowed(model, models)


def not_allowed(model: str, models: frozenset[str]) -> ApiError:
    return _forbidden(
        f"This key may not use the model '{model}'. It may use: {', '.join(sorted(models))}.", code="model_not_allowed"
    )


def may_listen(host: str, *, has_keys: bool, has_ray_token: bool, is_encrypted: bool) -> str | None:
    """None, or a sentence about why nothing may listen at `host`."""
    if is_loopback(host):
        return None
    there = f"'{host}' can be reached from outside"
    if not has_keys:
        return f"{there}, and there are no keys. Make one with `headroom keys create --role admin`, or use 127.0.0.1."
    if not has_ray_token:
        return f"{there}, and Ray takes commands without its token. Start Ray with RAY_AUTH_MODE=token."
    if not is_encrypted:
        return (
            f"{there}, and keys would be readable on the way. Set `access.certificate_file` and `access.key_file`, or "
            "`access.encrypted_elsewhere` where a proxy before it encrypts."
        )
    return None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _role_missing(need: Need) -> ApiError:
    return _forbidden(f"This needs a key of the role '{need}'.", code="role_missing")


def _forbidden(message: str, *, code: str) -> ApiError:
    return ApiError(
        status=HTTPStatus.FORBIDDEN, message=message, type="permission_error", code=code, outcome=Outcome.REJECTED
    )
